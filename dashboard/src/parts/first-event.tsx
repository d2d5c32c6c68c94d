// What a cluster or a site without events says: how to send the first one.

import { useState } from "preact/hooks";

const SITE = "example.com";
const COPIED_MS = 2_000;

/** A line for a shell that sends one view. */
export function curlLine(site: string): string {
  const event = JSON.stringify({ site: site === "" || site === "*" ? SITE : site, url: "/hello", visitor: "you" });
  return `curl -s ${location.origin}/v1/events -d '${event.replaceAll("'", "'\\''")}'`;
}

interface Props {
  site: string;
  /** No other site has events either. */
  isAlone: boolean;
}

export function FirstEvent({ site, isAlone }: Props) {
  const [copied, setCopied] = useState("");
  const line = curlLine(site);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(line);
      setCopied("Copied");
    } catch {
      setCopied("Select it by hand");
    }
    setTimeout(() => setCopied(""), COPIED_MS);
  };
  return (
    <section class="first" data-testid="empty">
      <h1>{isAlone ? "No events yet" : `No events of ${site} yet`}</h1>
      <p>This cluster runs and waits{isAlone ? "" : " for them"}. Send it a view, from any terminal:</p>
      <div class="command">
        <code data-testid="curl">{line}</code>
        <button type="button" class="button" onClick={() => void copy()}>
          {copied || "Copy"}
        </button>
      </div>
      <p class="waiting" role="status">
        Waiting for the first event. This page goes live by itself.
      </p>
    </section>
  );
}
