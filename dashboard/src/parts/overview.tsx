// What both views begin with: the figures, the lines over time, the load time.
//
// Owns: which number stands where. Does not own: the questions (now/questions.ts).

import { useEffect, useMemo, useState } from "preact/hooks";
import type { Answer } from "../live";
import { MEASURES, type Address } from "../state/address";
import { RANGES, STEP_SECONDS, startOf } from "../state/ranges";
import type { Go } from "../state/hooks";
import { entries, figure, number, seconds } from "./answer";
import { Chart } from "./chart";
import { Export } from "./export";
import { errorOf } from "./facts";
import { NONE, clock, duration, exact, fine, stepLabel } from "./number";
import { type Series, seriesOf } from "./series";
import { Trend } from "./trend";

const TITLES = { views: "Views", visitors: "Visitors" } as const;
const PERCENTILES = ["p50", "p95", "p99"] as const;
const CHART_HEIGHT = 216;
const LOAD_HEIGHT = 186;
const TICK_MS = 5_000;

interface Props {
  answers: Record<string, Answer | undefined>;
  address: Address;
  midnight: Date;
  go: Go;
}

export function Overview({ answers, address, midnight, go }: Props) {
  const { active, recent, totals, ended, series } = answers;
  const { range, measure } = address;
  const now = useNow();
  const figures = useMemo(
    () => <Figures active={active} recent={recent} totals={totals} ended={ended} range={range} now={now} />,
    [active, recent, totals, ended, range, now],
  );
  const lines = useMemo(
    () => <Lines answer={series} measure={measure} range={range} midnight={midnight} now={now} go={go} />,
    [series, measure, range, midnight, now, go],
  );
  const load = useMemo(
    () => <Load totals={totals} answer={series} range={range} midnight={midnight} now={now} />,
    [totals, series, range, midnight, now],
  );
  return (
    <>
      {figures}
      <div class="charts">
        {lines}
        {load}
      </div>
    </>
  );
}

/** Seconds since the Unix epoch, again and again: some numbers fall by themselves. */
function useNow(): number {
  const [now, setNow] = useState(() => Date.now() / 1_000);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now() / 1_000), TICK_MS);
    return () => clearInterval(timer);
  }, []);
  return now;
}

type Figured = Record<"active" | "recent" | "totals" | "ended", Answer | undefined> & Pick<Address, "range"> & { now: number };

function Figures({ active, recent, totals, ended, range, now }: Figured) {
  const { versusLabel, words } = RANGES[range];
  const minute = perMinute(recent, now);
  return (
    <dl class="panel figures" aria-label="Figures">
      <div class="figure big">
        <dt>Visitors right now</dt>
        <dd class="figure-value" data-testid="active" title={errorOf(active?.facts, "active")} aria-live="off">
          {errorOf(active?.facts, "active") && <Estimated />}
          {active ? exact(figure(active, "active") ?? 0) : NONE}
        </dd>
        <dd class="figure-more">distinct, in the last five minutes</dd>
      </div>
      <div class="figure">
        <dt>Views per minute</dt>
        <dd class="figure-value" data-testid="per-minute">{fine(minute?.rate)}</dd>
        <dd class="figure-more">{minute ? `mean since ${clock(minute.since)}` : ""}</dd>
      </div>
      {MEASURES.map((measure) => (
        <div class="figure" key={measure}>
          <dt>{TITLES[measure]}</dt>
          <dd class="figure-value" data-testid={`total-${measure}`} title={errorOf(totals?.facts, measure)}>
            {totals && errorOf(totals.facts, measure) && <Estimated />}
            {totals ? exact(figure(totals, measure) ?? 0) : NONE}
          </dd>
          <dd class="figure-more">
            <Change answer={ended} measure={measure} versusLabel={versusLabel} />
            <span class="hidden"> in {words}</span>
          </dd>
        </div>
      ))}
    </dl>
  );
}

function Change({ answer, measure, versusLabel }: { answer: Answer | undefined; measure: string; versusLabel: string }) {
  const then = figure(answer, `versus.${measure}`);
  if (!then) return <>{answer ? `none ${versusLabel}` : NONE}</>;
  return (
    <>
      <Trend now={figure(answer, measure)} then={then} versusLabel={versusLabel} /> vs {versusLabel}
    </>
  );
}

/** The sign before what is estimated. */
function Estimated() {
  return (
    <small>
      <span aria-hidden="true">≈ </span>
      <span class="hidden">about </span>
    </small>
  );
}

/** The mean since the start of the last five minutes that have ended: what was counted, over the time that took. */
function perMinute(recent: Answer | undefined, now: number): { rate: number; since: number } | undefined {
  if (!recent) return undefined;
  const running = seconds(recent.facts?.runningFrom || null);
  const since = (Number.isNaN(running) ? Math.floor(now / 300) * 300 : running) - 300;
  const minutes = Math.min(10, Math.max(5, (now - since) / 60));
  const views = entries(recent).reduce((sum, row) => sum + (seconds(row["time"]) >= since ? (number(row["views"]) ?? 0) : 0), 0);
  return { rate: views / minutes, since };
}

type Timed = Pick<Address, "range"> & { answer: Answer | undefined; midnight: Date; now: number };

function useSeries({ answer, range, midnight, now }: Timed, columns: readonly string[], absent: 0 | null): Series[] {
  return useMemo(() => {
    if (!answer) return [];
    const step = STEP_SECONDS[RANGES[range].granularity];
    return columns.map((column) => seriesOf(answer, column, startOf(range, midnight, now, step), step, absent, now));
  }, [answer, range, midnight, now, columns.join()]);
}

function Lines(props: Timed & Pick<Address, "measure"> & { go: Go }) {
  const { answer, measure, range, go } = props;
  const { granularity, versusLabel, words } = RANGES[range];
  const step = STEP_SECONDS[granularity];
  const [series] = useSeries(props, [measure], 0);
  return (
    <section class="panel" aria-label={`${TITLES[measure]} over time`}>
      <div class="panel-head">
        <h2>
          <span class="wide-only">{TITLES[measure]}, </span>
          {words}
        </h2>
        <span role="group" aria-label="Measure">
          {MEASURES.map((name) => (
            <button
              key={name}
              type="button"
              class="small-button"
              aria-pressed={name === measure}
              onClick={() => go({ measure: name })}
            >
              {TITLES[name]}
            </button>
          ))}
        </span>
        <Export name={`${TITLES[measure]} over time`} rows={() => entries(answer)} />
      </div>
      {series && (
        <Chart
          label={describe(TITLES[measure], series, step, versusLabel)}
          times={series.times}
          stepSeconds={step}
          running={series.running}
          height={CHART_HEIGHT}
          format={exact}
          lines={[
            { label: series.then.some((value) => value !== null) ? versusLabel : `${versusLabel}: nothing`, colour: "--then", values: series.then, faint: true },
            { label: TITLES[measure], colour: "--accent", values: series.now, filled: true },
          ]}
        />
      )}
    </section>
  );
}

/** The chart in words. */
function describe(title: string, series: Series, step: number, versusLabel: string): string {
  const ended = series.now.slice(0, series.running);
  const most = Math.max(0, ...ended.map((value) => value ?? 0));
  const at = series.times[ended.indexOf(most)];
  const then = series.then.filter((value) => value !== null).length;
  const peak = at === undefined || most === 0 ? "none yet" : `most ${exact(most)}, ${stepLabel(at, step)}`;
  const latest = series.running < series.now.length ? `; ${exact(series.now[series.running])} so far in the step that is running` : "";
  return `${title} in ${series.times.length} steps: ${peak}${latest}. ${then} steps have a number of ${versusLabel}.`;
}

function Load(props: Timed & { totals: Answer | undefined }) {
  const { totals, answer, range } = props;
  const columns = PERCENTILES.map((name) => `load_ms.${name}`);
  const series = useSeries(props, columns, null);
  const step = STEP_SECONDS[RANGES[range].granularity];
  const [first] = series;
  const [at, setAt] = useState<number | null>(null);
  const time = at === null ? undefined : first?.times[at];
  const values = columns.map((column) => figure(totals, column));
  const inWords = PERCENTILES.map((name, at) => `${name} ${duration(values[at])}`).join(", ");
  return (
    <section class="panel" aria-label="Load time">
      <div class="panel-head">
        <h2>Load time{time !== undefined && <span class="muted">, {stepLabel(time, step)}</span>}</h2>
        <Export name="Load time" rows={() => entries(answer).map((row) => only(row, ["time", ...columns]))} />
      </div>
      <dl class="percentiles">
        {PERCENTILES.map((name, of) => (
          <div key={name}>
            <dt>
              <span class="legend-line" style={{ background: `var(--${name})` }} aria-hidden="true" />
              {name}
            </dt>
            <dd data-testid={`load-${name}`} title={errorOf(totals?.facts, "load_ms")}>
              {duration(at === null || time === undefined ? values[of] : series[of]?.now[at])}
            </dd>
          </div>
        ))}
      </dl>
      {first && (
        <Chart
          label={`Load time: ${inWords}`}
          times={first.times}
          stepSeconds={step}
          running={first.running}
          height={LOAD_HEIGHT}
          format={duration}
          axis={duration}
          emptyTop={100}
          onPoint={setAt}
          lines={PERCENTILES.map((name, at) => ({
            label: name,
            colour: `--${name}`,
            values: series[at]?.now ?? [],
            faint: true,
          }))}
        />
      )}
    </section>
  );
}

function only(row: Record<string, unknown>, columns: string[]) {
  return Object.fromEntries(columns.map((column) => [column, row[column] as string | number | null]));
}
