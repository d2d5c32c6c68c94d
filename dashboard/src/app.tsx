// The shell: where one is, which site and time, what is filtered by, and whether there is a connection.
//
// Owns: which view is shown, keys, and what the shell knows of the connection.
// Does not own: what views ask and show (now, url, flow), the address (state/address.ts).

import { useCallback, useEffect, useState } from "preact/hooks";
import { FlowView } from "./flow";
import { type Connection, client } from "./live";
import { NowView } from "./now";
import { Away } from "./parts/away";
import { Bar } from "./parts/bar";
import { Chips } from "./parts/chips";
import { FirstEvent } from "./parts/first-event";
import { Help } from "./parts/help";
import { readableUrl } from "./parts/names";
import { SignIn } from "./parts/sign-in";
import { VIEWS, type Address, type Conditions, isSite, toggled } from "./state/address";
import { type Go, useAddress, useSites, useTheme } from "./state/hooks";
import { ChooseUrl, UrlView } from "./url";

const CONNECTING: Connection = { state: "connecting" };

export function App() {
  const [address, go] = useAddress();
  const [theme, toggleTheme] = useTheme();
  const { sites, areAll, isAway, ask } = useSites(address.site);
  const [streamed, setConnection] = useState<Connection>(CONNECTING);
  const [isHelping, setHelping] = useState(false);
  const site = address.site || sites?.[0] || "";
  // Nothing to show, and no question to leave open.
  const isEmpty = sites !== undefined && areAll && (sites.length === 0 || (isSite(site) && !sites.includes(site)));
  useKeys(go, toggleTheme, setHelping);
  useEffect(() => setConnection(CONNECTING), [address.view]);
  // A coordinator that is back may know of other sites.
  useEffect(() => {
    if (streamed.state === "connected") ask();
  }, [streamed.state]);
  useEffect(() => {
    document.title = `${titleOf(address)}${site === "" || site === "*" ? "" : ` · ${site}`} · Tidemark`;
  }, [address.view, address.url, site]);
  // Where no view has a stream.
  const polled: Connection = { state: isAway ? "lost" : sites ? "connected" : "connecting" };
  const connection = hasStream(address, site, isEmpty) ? streamed : polled;
  const toggle = (dimension: string, value: string) => go({ where: toggled(address.where, dimension, value) });
  return (
    <>
      <a class="skip" href="#main">
        Skip to the numbers
      </a>
      <Bar
        address={address}
        site={site}
        sites={sites}
        go={go}
        theme={theme}
        onTheme={toggleTheme}
        onHelp={() => setHelping(true)}
        connection={connection}
      />
      <main class="page" id="main" tabIndex={-1}>
        <Away connection={connection} />
        {address.view !== "flow" && <Chips where={applicable(address)} onToggle={toggle} onClear={() => go({ where: {} })} />}
        <View address={{ ...address, site }} sites={sites} isEmpty={isEmpty} go={go} onConnection={setConnection} />
      </main>
      <SignIn />
      <Help isOpen={isHelping} onClose={() => setHelping(false)} />
    </>
  );
}

/** Whether the view that is shown has a stream of its own. */
function hasStream({ view, url }: Address, site: string, isEmpty: boolean): boolean {
  if (view === "flow") return true;
  return !isEmpty && site !== "" && (view === "now" || url !== "");
}

/** What the view filters by: that of URLs is replaced where only one is shown. */
function applicable({ view, where }: Address): Conditions {
  const { url: _, ...others } = where;
  return view === "url" ? others : where;
}

interface Shown {
  address: Address;
  sites: string[] | undefined;
  isEmpty: boolean;
  go: Go;
  onConnection: (connection: Connection) => void;
}

function View({ address, sites, isEmpty, go, onConnection }: Shown) {
  const onConnected = useCallback(
    (connected: boolean) => onConnection({ state: connected ? "connected" : "lost" }),
    [onConnection],
  );
  if (address.view === "flow") {
    return (
      <>
        <h1 class="hidden">The flow of the data</h1>
        <FlowView client={client} onConnected={onConnected} />
      </>
    );
  }
  if (isEmpty) return <FirstEvent site={address.site} isAlone={sites?.length === 0} />;
  if (address.site === "") return <p role="status">Asking which sites there are …</p>;
  if (address.view === "now") return <NowView address={address} go={go} onConnection={onConnection} />;
  if (address.url === "") return <ChooseUrl go={go} />;
  return <UrlView address={address} go={go} onConnection={onConnection} />;
}

function titleOf({ view, url }: Address): string {
  return view === "url" ? readableUrl(url) || "URL" : view === "flow" ? "Flow" : "Now";
}

/** Goes to the search, which is in Now where the view has none. */
function search(go: Go): void {
  const focused = () => document.getElementById("search")?.focus();
  if (document.getElementById("search")) return focused();
  go({ view: "now" });
  requestAnimationFrame(() => requestAnimationFrame(focused));
}

/** Keys, where nobody is typing. */
function useKeys(go: Go, onTheme: () => void, onHelp: (isOpen: boolean) => void): void {
  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      const { target, key } = event;
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (target instanceof HTMLElement && target.matches("input, select, textarea")) {
        if (key === "Escape") target.blur();
        return;
      }
      const view = VIEWS[Number.parseInt(key, 10) - 1];
      if (view) go({ view });
      else if (key === "t") onTheme();
      else if (key === "?") onHelp(true);
      else if (key === "/") {
        event.preventDefault();
        search(go);
      }
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  });
}
