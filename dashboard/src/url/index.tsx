// The URL view: one URL's page, with the same numbers as the site's.

import { useMemo } from "preact/hooks";
import { useLive } from "../live";
import { overview, tablesOf } from "../now/questions";
import { figure } from "../parts/answer";
import { Breakdown } from "../parts/breakdown";
import { Freshness } from "../parts/facts";
import { pageOf, readableUrl, typedUrl } from "../parts/names";
import { Overview } from "../parts/overview";
import { useSteady } from "../parts/steady";
import { type ViewProps, Troubles, useTold } from "../parts/troubles";
import { formatAddress, toggled } from "../state/address";
import { useMidnight } from "../state/hooks";

export function UrlView({ address, go, onConnection }: ViewProps) {
  const { site, url, range, where, measure } = address;
  const midnight = useMidnight();
  const questions = useMemo(
    () => overview({ site, range, measure, where: { ...where, url: [url] } }, midnight, Date.now()),
    [site, url, range, where, measure, midnight],
  );
  const known = useLive(questions, address.every || undefined);
  useTold(known.connection, onConnection);
  const { answers, reading, isOld } = useSteady(known, Object.keys(questions), address, `${site} ${url}`);
  const toggle = (dimension: string, value: string) => go({ where: toggled(where, dimension, value) });
  const page = pageOf(site, url);
  const back = formatAddress({ ...address, view: "now" });
  return (
    <div class={isOld ? "view is-old" : "view"} data-testid="url-view" data-url={url}>
      <div class="url-head">
        <h1>{readableUrl(url)}</h1>
        <a
          class="muted"
          href={location.pathname + back}
          onClick={(event) => {
            event.preventDefault();
            go({ view: "now" });
          }}
        >
          All of {site === "*" ? "all sites" : site}
        </a>
        {page !== undefined && (
          <a class="muted" href={page} target="_blank" rel="noreferrer">
            Open the page <span aria-hidden="true">↗</span>
            <span class="hidden">in a new tab</span>
          </a>
        )}
      </div>
      <Troubles known={known} />
      <Overview answers={answers} address={{ ...address, ...reading }} midnight={midnight} go={go} />
      <div class="thirds">
        {tablesOf(site).map((dimension) => (
          <Breakdown
            key={dimension}
            dimension={dimension}
            measure={reading.measure}
            answer={answers[dimension]}
            total={figure(answers["totals"], "views")}
            chosen={where[dimension] ?? []}
            onToggle={toggle}
          />
        ))}
      </div>
      <Freshness facts={answers["totals"]?.facts} />
    </div>
  );
}

/** What stands there until a URL is chosen. */
export function ChooseUrl({ go }: Pick<ViewProps, "go">) {
  return (
    <form
      class="panel choose"
      data-testid="url-view"
      onSubmit={(event) => {
        event.preventDefault();
        const url = new FormData(event.currentTarget).get("url");
        if (typeof url === "string" && url.trim() !== "") go({ view: "url", url: typedUrl(url.trim()) });
      }}
    >
      <h1>Which URL?</h1>
      <p class="muted">Type or paste one, or choose one of the list in Now.</p>
      <p class="panel-head">
        <input class="search" id="search" name="url" placeholder="/ …" aria-label="URL" autocomplete="off" />
        <button type="submit" class="button">Show</button>
      </p>
    </form>
  );
}
