import { defineConfig } from "vite";

export default defineConfig({
  // JSX as the compiler does it: no plugin is needed.
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: process.env.TIDEMARK_DASHBOARD_OUT ?? "dist",
    emptyOutDir: true,
    target: "es2022",
    // One file each: all of it is small, and fetched at once.
    cssCodeSplit: false,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: {
    // `npm run dev` beside a demo.
    proxy: { "/tidemark.v1": "http://127.0.0.1:8100", "/v1": "http://127.0.0.1:8100" },
  },
});
