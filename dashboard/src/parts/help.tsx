// The keys there are.

import { useEffect, useRef } from "preact/hooks";

const KEYS = [
  ["1", "Now: what happens on the site"],
  ["2", "URL: one URL’s page"],
  ["3", "Flow: the way of the data, and the nodes"],
  ["/", "Search URLs"],
  ["t", "Dark or light"],
  ["?", "These keys"],
  ["Esc", "Close this, leave the search"],
] as const;

export function Help({ isOpen, onClose }: { isOpen: boolean; onClose: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (isOpen) dialog.current?.showModal();
    else dialog.current?.close();
  }, [isOpen]);
  return (
    <dialog ref={dialog} aria-labelledby="help-title" onClose={onClose}>
      <h2 id="help-title">Keys</h2>
      <dl class="keys">
        {KEYS.map(([key, what]) => (
          <>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{what}</dd>
          </>
        ))}
      </dl>
      <p class="muted">
        Solid lines have ended. Dashed ones, with a hollow point, still run and are not compared; where there was nothing to compare
        with a week before, there is a gap.
      </p>
      <form method="dialog">
        <button class="button">Close</button>
      </form>
    </dialog>
  );
}
