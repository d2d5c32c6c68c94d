// Asks for a token, where the coordinator wants one.

import { useEffect, useRef, useState } from "preact/hooks";
import { onAsked, use } from "../live/token";

export function SignIn() {
  const [why, setWhy] = useState("");
  const dialog = useRef<HTMLDialogElement>(null);
  const field = useRef<HTMLInputElement>(null);
  useEffect(
    () =>
      onAsked((why) => {
        setWhy(why);
        if (!dialog.current?.open) dialog.current?.showModal();
      }),
    [],
  );
  const enter = (event: Event) => {
    event.preventDefault();
    use(field.current?.value ?? "");
    // All that is open begins anew with it.
    location.reload();
  };
  return (
    <dialog ref={dialog} aria-labelledby="sign-in-title" data-testid="sign-in">
      <h2 id="sign-in-title">A token, please</h2>
      <p class="muted">{why}. It is kept until you close this tab. Operators make them with tidemark token make, scope query.</p>
      <form class="sign-in" onSubmit={enter}>
        <label for="token">Token</label>
        <input id="token" ref={field} type="password" autocomplete="off" required />
        <button class="button">Use it</button>
      </form>
    </dialog>
  );
}
