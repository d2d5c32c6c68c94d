// Where the dashboard begins.

import { render } from "preact";
import { App } from "./app";
import "./style/base.css";
import "./style/shell.css";
import "./style/views.css";

const place = document.getElementById("app");
if (place) render(<App />, place);
