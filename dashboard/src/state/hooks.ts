// What the page remembers and watches: its address, the theme, midnight, the sites there are.

import { useCallback, useEffect, useState } from "preact/hooks";
import { client } from "../live";
import { type Address, formatAddress, parseAddress } from "./address";
import { midnight } from "./ranges";

/** How the address changes: part of it, as a step that Back takes back, or in place. */
export type Go = (change: Partial<Address>, how?: "push" | "replace") => void;

/** The address, and how it changes. */
export function useAddress(): [Address, Go] {
  const [address, setAddress] = useState(() => parseAddress(location.search));
  useEffect(() => {
    const back = () => setAddress(parseAddress(location.search));
    addEventListener("popstate", back);
    return () => removeEventListener("popstate", back);
  }, []);
  const go = useCallback<Go>((change, how = "push") => {
    const next = { ...parseAddress(location.search), ...change };
    const target = location.pathname + formatAddress(next);
    if (how === "replace") history.replaceState(null, "", target);
    else if (target !== location.pathname + location.search) history.pushState(null, "", target);
    setAddress(next);
  }, []);
  return [address, go];
}

export type Theme = "light" | "dark";
const THEME = "tidemark.theme";

/** The theme: the system's until somebody chooses, then what was chosen. */
export function useTheme(): [Theme, () => void] {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const [chosen, setChosen] = useState(() => stored());
  const [dark, setDark] = useState(system.matches);
  useEffect(() => {
    const changed = () => setDark(system.matches);
    system.addEventListener("change", changed);
    return () => system.removeEventListener("change", changed);
  }, []);
  const theme = chosen ?? (dark ? "dark" : "light");
  document.documentElement.dataset["theme"] = theme;
  const toggle = () => {
    const next = theme === "dark" ? "light" : "dark";
    setChosen(next);
    try {
      localStorage.setItem(THEME, next);
    } catch {
      // Not kept, then.
    }
  };
  return [theme, toggle];
}

function stored(): Theme | undefined {
  try {
    const theme = localStorage.getItem(THEME);
    return theme === "dark" || theme === "light" ? theme : undefined;
  } catch {
    return undefined;
  }
}

/** The last midnight; a page that stays open over night gets the next one. */
export function useMidnight(): Date {
  const [last, setLast] = useState(() => midnight(new Date()));
  useEffect(() => {
    const timer = setInterval(() => {
      const now = midnight(new Date());
      setLast((before) => (before.getTime() === now.getTime() ? before : now));
    }, 30_000);
    return () => clearInterval(timer);
  }, []);
  return last;
}

const EMPTY_POLL_MS = 2_000;
const SITES_POLL_MS = 60_000;

export interface Sites {
  /** Undefined until that is known. */
  sites: string[] | undefined;
  /** Every node answered: what is not among them has no events. */
  areAll: boolean;
  /** The last time, nobody answered. */
  isAway: boolean;
  /** Asks again, now. */
  ask: () => void;
}

/** The sites there are. Asked often while there are none, or while the wanted one ("": whichever) is not among them. */
export function useSites(wanted: string): Sites {
  const [sites, setSites] = useState<string[]>();
  const [areAll, setAll] = useState(false);
  const [isAway, setAway] = useState(false);
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout>;
    const stop = new AbortController();
    const ask = async () => {
      let pause = EMPTY_POLL_MS;
      try {
        const reply = await client.sites({}, { signal: stop.signal });
        setAway(false);
        setAll(reply.complete);
        // Where nodes are missing, what is not listed may be there all the same.
        setSites((before) => (reply.complete ? reply.sites : together(before, reply.sites)));
        const isThere = wanted === "" || wanted === "*" || reply.sites.includes(wanted);
        if (reply.sites.length > 0 && isThere) pause = SITES_POLL_MS;
      } catch {
        // Asked again.
        if (!stop.signal.aborted) setAway(true);
      }
      if (!stop.signal.aborted) timer = setTimeout(ask, pause);
    };
    void ask();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [turn, wanted]);
  const again = useCallback(() => setTurn((turn) => turn + 1), []);
  return { sites, areAll, isAway, ask: again };
}

/** Both, by name; undefined where there are none. */
function together(a: string[] | undefined, b: string[]): string[] | undefined {
  const all = [...new Set([...(a ?? []), ...b])].toSorted();
  return all.length > 0 ? all : undefined;
}
