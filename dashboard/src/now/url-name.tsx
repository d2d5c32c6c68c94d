// A URL in a table: a bar that says how large it is, a link to its page, and a filter.

import { valueName } from "../parts/names";
import { type Address, formatAddress } from "../state/address";

interface Props {
  url: string;
  /** 0 to 1: how long its bar is. */
  share: number;
  address: Address;
  onOpen: (url: string) => void;
  onFilter: (url: string) => void;
}

export function UrlName({ url, share, address, onOpen, onFilter }: Props) {
  const name = valueName("url", url);
  const open = (event: MouseEvent) => {
    // With a key it is for the browser: a new tab.
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    onOpen(url);
  };
  return (
    <span class="name-cell">
      <span class="name-bar" style={{ width: `${100 * Math.min(1, share)}%` }} />
      <a href={location.pathname + formatAddress({ ...address, view: "url", url })} data-testid="url-link" title={name} onClick={open}>
        {name}
      </a>
      <button type="button" class="small-button only" aria-label={`Filter by ${name}`} onClick={() => onFilter(url)}>
        Filter
      </button>
    </span>
  );
}
