// The panel of URLs: the top ones, or all of them with a search.

import { useEffect, useRef, useState } from "preact/hooks";
import type { Answer } from "../live";
import { entries } from "../parts/answer";
import { Export } from "../parts/export";
import { exact } from "../parts/number";
import { type Address, toggled } from "../state/address";
import type { Go } from "../state/hooks";
import { AllUrls } from "./all-urls";
import { UrlTable } from "./url-table";

/** After the last key, a search waits so long for the next one. */
const TYPING_MS = 180;

interface Props {
  answers: Record<string, Answer | undefined>;
  address: Address;
  midnight: Date;
  go: Go;
}

export function UrlPanel({ answers, address, midnight, go }: Props) {
  const { all, search, where } = address;
  const rows = () => entries(answers[all ? "allUrls" : "urls"]);
  const open = (url: string) => go({ view: "url", url });
  const filter = (url: string) => go({ where: toggled(where, "url", url), all: false, search: "" });
  const count = answers["allUrls"]?.rows.length;
  return (
    <section class="panel" aria-label="URLs" data-testid="table-url">
      <div class="panel-head">
        <h2>
          {all ? "All URLs" : "Top URLs"} {all && count !== undefined && <span class="muted">{exact(count)}</span>}
        </h2>
        <Search text={all ? search : ""} onText={(text) => go({ all: true, search: text }, all ? "replace" : "push")} />
        <button type="button" class="small-button" aria-pressed={all} onClick={() => go({ all: !all, search: "" })}>
          All URLs
        </button>
        <Export name={all ? "All URLs" : "Top URLs"} rows={rows} />
      </div>
      {all ? (
        <AllUrls key={search} answer={answers["allUrls"]} address={address} onOpen={open} onFilter={filter} />
      ) : (
        <UrlTable answers={answers} address={address} midnight={midnight} onOpen={open} onFilter={filter} />
      )}
    </section>
  );
}

function Search({ text, onText }: { text: string; onText: (text: string) => void }) {
  const [typed, setTyped] = useState(text);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  // The address has changed by other means.
  useEffect(() => {
    clearTimeout(timer.current);
    setTyped(text);
  }, [text]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const type = (next: string) => {
    setTyped(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => onText(next), TYPING_MS);
  };
  return (
    <input
      type="search"
      class="search"
      id="search"
      value={typed}
      placeholder="URLs that begin with …  ( / )"
      aria-label="Search URLs by how they begin"
      autocomplete="off"
      spellcheck={false}
      onInput={(event) => type(event.currentTarget.value)}
    />
  );
}
