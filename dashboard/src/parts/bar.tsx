// The bar at the top: views, site, time, connection, theme.

import type { Connection } from "../live";
import { type Address, VIEWS, formatAddress } from "../state/address";
import type { Go, Theme } from "../state/hooks";
import { RANGES, type RangeName } from "../state/ranges";

const TITLES = { now: "Now", url: "URL", flow: "Flow" } as const;
const STATES = { connecting: "Connecting", connected: "Live", lost: "Away" } as const;
const RANGE_NAMES = Object.keys(RANGES) as RangeName[];

interface Props {
  address: Address;
  site: string;
  sites: string[] | undefined;
  go: Go;
  theme: Theme;
  onTheme: () => void;
  onHelp: () => void;
  connection: Connection;
}

export function Bar({ address, site, sites, go, theme, onTheme, onHelp, connection }: Props) {
  const isFlow = address.view === "flow";
  return (
    <header class="bar">
      <div class="bar-inner">
        <span class="brand">
          <Mark /> <span class="brand-name">Tidemark</span>
        </span>
        <nav class="tabs" aria-label="Views">
          {VIEWS.map((view, at) => (
            <a
              key={view}
              href={location.pathname + formatAddress({ ...address, view })}
              aria-current={view === address.view ? "page" : undefined}
              aria-keyshortcuts={String(at + 1)}
              onClick={(event) => {
                if (event.metaKey || event.ctrlKey || event.shiftKey) return;
                event.preventDefault();
                go({ view });
              }}
            >
              {TITLES[view]}
            </a>
          ))}
        </nav>
        {!isFlow && <Sites site={site} sites={sites} go={go} />}
        {!isFlow && <Ranges range={address.range} go={go} />}
        <div class="bar-end">
          <span class="state" data-state={connection.state} data-testid="connection">
            {STATES[connection.state]}
          </span>
          <button type="button" class="icon-button" aria-label={theme === "dark" ? "Light theme" : "Dark theme"} onClick={onTheme}>
            <svg viewBox="0 0 20 20" fill="none" stroke="currentColor" stroke-width="1.6" aria-hidden="true">
              <circle cx="10" cy="10" r="7" />
              <path d="M10 3a7 7 0 0 1 0 14z" fill="currentColor" />
            </svg>
          </button>
          <button type="button" class="icon-button" aria-label="Keys and help" onClick={onHelp}>
            ?
          </button>
        </div>
      </div>
    </header>
  );
}

function Sites({ site, sites, go }: Pick<Props, "site" | "sites" | "go">) {
  const names = sites ?? [];
  const listed = site === "" || site === "*" || names.includes(site) ? names : [site, ...names];
  if (listed.length === 0) return null;
  return (
    <label class="site">
      <span class="hidden">Site</span>
      <select data-testid="site" value={site} onChange={(event) => go({ site: event.currentTarget.value, where: {}, all: false, search: "" })}>
        {listed.map((name) => (
          <option key={name} value={name} selected={name === site}>
            {name}
          </option>
        ))}
        <option value="*" selected={site === "*"}>
          All sites
        </option>
      </select>
    </label>
  );
}

/** Buttons where they fit, a list where not. */
function Ranges({ range, go }: { range: RangeName; go: Go }) {
  return (
    <>
      <div class="ranges" role="group" aria-label="Time range">
        {RANGE_NAMES.map((name) => (
          <button
            key={name}
            type="button"
            aria-pressed={name === range}
            title={`Show ${RANGES[name].words}`}
            onClick={() => go({ range: name })}
          >
            {RANGES[name].label}
          </button>
        ))}
      </div>
      <label class="range">
        <span class="hidden">Time range</span>
        <select value={range} onChange={(event) => go({ range: event.currentTarget.value as RangeName })}>
          {RANGE_NAMES.map((name) => (
            <option key={name} value={name} selected={name === range}>
              {RANGES[name].label}
            </option>
          ))}
        </select>
      </label>
    </>
  );
}

/** Waves, and the line that they reached. */
function Mark() {
  return (
    <svg viewBox="0 0 20 20" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" aria-hidden="true">
      <path d="M2 5h16" />
      <path d="M2 11c2.7-3 5.3-3 8 0s5.3 3 8 0" />
      <path d="M2 16c2.7-3 5.3-3 8 0s5.3 3 8 0" opacity="0.5" />
    </svg>
  );
}
