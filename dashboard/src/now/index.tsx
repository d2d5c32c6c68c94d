// The Now view: what happens on the site, as it happens.
//
// Owns: which questions are open, and what a click on what does. Does not own: how numbers and lines look (parts).

import { useEffect, useMemo, useState } from "preact/hooks";
import { type Answer, useLive } from "../live";
import { entries, text, useSteady } from "../parts/answer";
import { Breakdown } from "../parts/breakdown";
import { Freshness } from "../parts/facts";
import { figure } from "../parts/answer";
import { Overview } from "../parts/overview";
import { type ViewProps, Troubles, useTold } from "../parts/troubles";
import { toggled } from "../state/address";
import { useMidnight } from "../state/hooks";
import { RANGES } from "../state/ranges";
import { TOP_URLS, allUrls, overview, tablesOf, topUrls } from "./questions";
import { UrlPanel } from "./url-panel";

/** So many URLs are asked about before those that left the table are let go. */
const MOST_SHOWN = 2 * TOP_URLS;

export function NowView({ address, go, onConnection }: ViewProps) {
  const { site, range, where, measure, all, search } = address;
  const midnight = useMidnight();
  const [shown, setShown] = useState<string[]>([]);
  const questions = useMemo(() => {
    const now = Date.now();
    const urls = all ? { allUrls: allUrls(address, midnight, search) } : topUrls(address, midnight, now, shown);
    return { ...overview(address, midnight, now), ...urls };
  }, [site, range, where, measure, all, search, midnight, shown]);
  const known = useLive(questions, address.every || undefined);
  useTold(known.connection, onConnection);
  useEffect(() => setShown((before) => withNew(before, known.answers["urls"])), [known.answers["urls"]]);
  const { answers, isOld } = useSteady(known, NAMES(site), site);

  const toggle = (dimension: string, value: string) => go({ where: toggled(where, dimension, value) });
  const total = figure(answers["totals"], "views");
  const urls = useMemo(
    () => <UrlPanel answers={answers} address={address} midnight={midnight} go={go} />,
    [...["urls", "urlActive", "urlSteps", "urlEnded", "allUrls"].map((name) => answers[name]), address, midnight, go],
  );
  return (
    <div class={isOld ? "view is-old" : "view"} data-testid="now-view" data-range={RANGES[range].label}>
      <h1 class="hidden">{site === "*" ? "All sites" : site} right now</h1>
      <Troubles known={known} />
      <Overview answers={answers} address={address} midnight={midnight} go={go} />
      <div class="tables">
        {urls}
        <div class="side">
          {tablesOf(site).map((dimension) => (
            <Breakdown
              key={dimension}
              dimension={dimension}
              measure={measure}
              answer={answers[dimension]}
              total={total}
              chosen={where[dimension] ?? []}
              onToggle={toggle}
            />
          ))}
        </div>
      </div>
      <Freshness facts={answers["totals"]?.facts} />
    </div>
  );
}

const NAMES = (site: string) => [
  ...["active", "recent", "totals", "ended", "series", "urls", "urlActive", "urlSteps", "urlEnded", "allUrls"],
  ...tablesOf(site),
];

/** The URLs to ask more about. Those that left stay a while: each other set is another question. */
function withNew(before: string[], answer: Answer | undefined): string[] {
  if (!answer) return before;
  const urls = entries(answer).map((row) => text(row, "url"));
  if (urls.every((url) => before.includes(url))) return before;
  const together = [...new Set([...before, ...urls])];
  return (together.length > MOST_SHOWN ? urls : together).toSorted();
}
