// Every URL, up to ten thousand: only the rows that are in sight are in the page.

import { useEffect, useRef, useState } from "preact/hooks";
import type { Answer } from "../live";
import { number } from "../parts/answer";
import { duration, exact } from "../parts/number";
import type { Address } from "../state/address";
import { ALL_URLS } from "./questions";
import { UrlName } from "./url-name";

const AROUND = 12;
/** Until a row was measured. */
const ROW_HEIGHT = 30;

interface Props {
  answer: Answer | undefined;
  address: Address;
  onOpen: (url: string) => void;
  onFilter: (url: string) => void;
}

export function AllUrls({ answer, address, onOpen, onFilter }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const [sight, setSight] = useState({ from: 0, to: 40, height: ROW_HEIGHT });
  const rows = answer?.rows ?? [];
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const look = () => {
      const height = element.querySelector<HTMLElement>("[data-testid=url-row]")?.offsetHeight || ROW_HEIGHT;
      const from = Math.max(0, Math.floor(element.scrollTop / height) - AROUND);
      const to = Math.ceil((element.scrollTop + element.clientHeight) / height) + AROUND;
      setSight((before) => (before.from === from && before.to === to && before.height === height ? before : { from, to, height }));
    };
    look();
    element.addEventListener("scroll", look, { passive: true });
    const resized = new ResizeObserver(look);
    resized.observe(element);
    return () => {
      element.removeEventListener("scroll", look);
      resized.disconnect();
    };
  }, [rows.length > 0]);
  if (answer && rows.length === 0) return <p class="nothing">No URL begins with “{address.search}”.</p>;
  const column = (name: string) => answer?.columns.indexOf(name) ?? -1;
  const [urlAt, viewsAt, visitorsAt, loadAt, measureAt] = ["url", "views", "visitors", "load_ms.p95", address.measure].map(column) as [
    number, number, number, number, number,
  ];
  const most = number(rows[0]?.[measureAt]) || 1;
  const from = Math.min(sight.from, Math.max(0, rows.length - 1));
  const to = Math.min(sight.to, rows.length);
  return (
    <div class="table-scroll long" ref={box} role="region" aria-label="All URLs" tabIndex={0}>
      <table class="data" aria-rowcount={rows.length + 1}>
        <caption class="hidden">{rows.length} URLs{rows.length === ALL_URLS ? ", which is as many as are listed" : ""}</caption>
        <thead>
          <tr>
            <th scope="col" class="name">URL</th>
            <th scope="col">Views</th>
            <th scope="col">Visitors</th>
            <th scope="col" class="wide-only">p95 load</th>
          </tr>
        </thead>
        <tbody>
          {from > 0 && <Spacer height={from * sight.height} />}
          {rows.slice(from, to).map((row, n) => {
            const url = String(row[urlAt] ?? "");
            return (
              <tr key={url} data-testid="url-row" data-url={url} aria-rowindex={from + n + 2}>
                <th scope="row" class="name">
                  <UrlName url={url} share={(number(row[measureAt]) ?? 0) / most} address={address} onOpen={onOpen} onFilter={onFilter} />
                </th>
                <td class="number" data-testid="views">{exact(number(row[viewsAt]))}</td>
                <td>{exact(number(row[visitorsAt]))}</td>
                <td class="wide-only">{duration(number(row[loadAt]))}</td>
              </tr>
            );
          })}
          {to < rows.length && <Spacer height={(rows.length - to) * sight.height} />}
        </tbody>
      </table>
    </div>
  );
}

/** Stands for the rows that are out of sight. */
function Spacer({ height }: { height: number }) {
  return (
    <tr class="spacer" aria-hidden="true">
      <td colSpan={4} style={{ height: `${height}px` }} />
    </tr>
  );
}
