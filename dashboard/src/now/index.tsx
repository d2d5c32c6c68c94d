// The Now view: what happens on the site, as it happens.
//
// Owns: which questions are open, and what a click on what does. Does not own: how numbers and lines look (parts).

import { useEffect, useMemo, useState } from "preact/hooks";
import { type Answer, useLive } from "../live";
import { entries, figure, text } from "../parts/answer";
import { Breakdown } from "../parts/breakdown";
import { Freshness } from "../parts/facts";
import { Overview } from "../parts/overview";
import { useKept, useSteady } from "../parts/steady";
import { type ViewProps, Troubles, useTold } from "../parts/troubles";
import { toggled } from "../state/address";
import { useMidnight } from "../state/hooks";
import { RANGES } from "../state/ranges";
import { TOP_URLS, allUrls, overview, tablesOf, topUrls } from "./questions";
import { UrlPanel } from "./url-panel";

/** Answers of the table of URLs, and what stands beside each. */
const LISTS = ["urls", "allUrls"] as const;
const BESIDE = ["urlActive", "urlSteps", "urlEnded"] as const;

/** So many URLs are asked about before those that left the table are let go. */
const MOST_SHOWN = 2 * TOP_URLS;

export function NowView({ address, go, onConnection }: ViewProps) {
  const { site, range, where, measure, all, search } = address;
  const midnight = useMidnight();
  const [shown, setShown] = useState<string[]>([]);
  const whole = useMemo(() => overview(address, midnight, Date.now()), [site, range, where, measure, midnight]);
  const listed = useMemo(
    () => (all ? { allUrls: allUrls(address, midnight, search) } : topUrls(address, midnight, Date.now(), shown)),
    [site, range, where, measure, all, search, midnight, shown],
  );
  const known = useLive({ ...whole, ...listed }, address.every || undefined);
  useTold(known.connection, onConnection);
  useEffect(() => setShown((before) => withNew(before, known.answers["urls"])), [known.answers["urls"]]);
  const { answers, reading, isOld } = useSteady(known, Object.keys(whole), address, site);
  const lists = useKept(known, LISTS, site);
  const beside = useKept(known, BESIDE, `${site} ${range} ${measure}`);
  const read = { ...address, ...reading };

  const toggle = (dimension: string, value: string) => go({ where: toggled(where, dimension, value) });
  const total = figure(answers["totals"], "views");
  const urls = useMemo(
    () => <UrlPanel answers={{ ...lists, ...beside }} address={read} midnight={midnight} go={go} />,
    [...LISTS.map((name) => lists[name]), ...BESIDE.map((name) => beside[name]), address, reading.range, reading.measure, midnight, go],
  );
  return (
    <div class={isOld ? "view is-old" : "view"} data-testid="now-view" data-range={RANGES[range].label}>
      <h1 class="hidden">{site === "*" ? "All sites" : site} right now</h1>
      <Troubles known={known} />
      <Overview answers={answers} address={read} midnight={midnight} go={go} />
      <div class="tables">
        {urls}
        <div class="side">
          {tablesOf(site).map((dimension) => (
            <Breakdown
              key={dimension}
              dimension={dimension}
              measure={reading.measure}
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

/** The URLs to ask more about. Those that left stay a while: each other set is another question. */
function withNew(before: string[], answer: Answer | undefined): string[] {
  if (!answer) return before;
  const urls = entries(answer).map((row) => text(row, "url"));
  if (urls.every((url) => before.includes(url))) return before;
  const together = [...new Set([...before, ...urls])];
  return (together.length > MOST_SHOWN ? urls : together).toSorted();
}
