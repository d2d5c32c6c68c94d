// The top URLs: how many, how that moves, how that compares. Each leads to its page.

import { useMemo } from "preact/hooks";
import type { Answer } from "../live";
import { type Entry, entries, number, text } from "../parts/answer";
import { errorOf } from "../parts/facts";
import { NONE, duration, exact } from "../parts/number";
import { type Series, seriesOf } from "../parts/series";
import { Spark } from "../parts/spark";
import { Trend } from "../parts/trend";
import type { Address } from "../state/address";
import { RANGES, STEP_SECONDS, startOf } from "../state/ranges";
import { UrlName } from "./url-name";

interface Props {
  answers: Record<string, Answer | undefined>;
  address: Address;
  midnight: Date;
  onOpen: (url: string) => void;
  onFilter: (url: string) => void;
}

export function UrlTable({ answers, address, midnight, onOpen, onFilter }: Props) {
  const { range, measure } = address;
  const { urls, urlActive, urlSteps, urlEnded } = answers;
  const active = useMemo(() => byUrl(urlActive), [urlActive]);
  const ended = useMemo(() => byUrl(urlEnded), [urlEnded]);
  const lines = useMemo(() => linesOf(urlSteps, measure, range, midnight), [urlSteps, measure, range, midnight]);
  const rows = entries(urls);
  const most = Math.max(1, ...rows.map((row) => number(row[measure]) ?? 0));
  if (urls && rows.length === 0) return <p class="nothing">No views in {RANGES[range].words} yet.</p>;
  return (
    <div class="table-scroll">
      <table class="data">
        <caption class="hidden">Top URLs in {RANGES[range].words}</caption>
        <thead>
          <tr>
            <th scope="col" class="name">URL</th>
            <th scope="col" class="wide-only">Now</th>
            <th scope="col">Views</th>
            <th scope="col" class="wide-only">Visitors</th>
            <th scope="col" class="wide-only">p95 load</th>
            <th scope="col" title={`Over ${RANGES[range].versusLabel}, of what has ended`}>Trend</th>
            <th scope="col" class="wide-only">{RANGES[range].label}</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => {
            const url = text(row, "url");
            const line = lines.get(url);
            const compared = ended.get(url);
            const share = (number(row[measure]) ?? 0) / most;
            return (
              <tr key={url} data-testid="url-row" data-url={url}>
                <th scope="row" class="name">
                  <UrlName url={url} share={share} address={address} onOpen={onOpen} onFilter={onFilter} />
                </th>
                <td class="wide-only" data-testid="active-of">{urlActive ? exact(number(active.get(url)?.["active"]) ?? 0) : NONE}</td>
                <td class="number" data-testid="views">{exact(number(row["views"]))}</td>
                <td class="wide-only" title={errorOf(urls?.facts, "visitors")}>{exact(number(row["visitors"]))}</td>
                <td class="wide-only">{duration(number(row["load_ms.p95"]))}</td>
                <td>
                  <Trend
                    now={number(compared?.[measure])}
                    then={number(compared?.[`versus.${measure}`])}
                    versusLabel={RANGES[range].versusLabel}
                  />
                </td>
                <td class="wide-only">{line && <Spark values={line.now} running={line.running} label={sparkLabel(line)} />}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

function byUrl(answer: Answer | undefined): Map<string, Entry> {
  return new Map(entries(answer).map((row) => [text(row, "url"), row]));
}

/** A line for each URL, all of them on the same steps. */
function linesOf(answer: Answer | undefined, measure: string, range: Address["range"], midnight: Date): Map<string, Series> {
  const lines = new Map<string, Series>();
  if (!answer) return lines;
  const at = answer.columns.indexOf("url");
  const rowsOf = new Map<string, Answer["rows"]>();
  for (const row of answer.rows) {
    const url = String(row[at] ?? "");
    const rows = rowsOf.get(url);
    if (rows) rows.push(row);
    else rowsOf.set(url, [row]);
  }
  const now = Date.now() / 1_000;
  const step = STEP_SECONDS[RANGES[range].spark];
  for (const [url, rows] of rowsOf) {
    lines.set(url, seriesOf({ ...answer, rows }, measure, startOf(range, midnight, now, step), step, 0, now));
  }
  return lines;
}

function sparkLabel({ now, running }: Series): string {
  const ended = now.slice(0, running).map((value) => value ?? 0);
  return `Most ${exact(Math.max(0, ...ended))}, last ${exact(ended.at(-1) ?? 0)} in a step`;
}
