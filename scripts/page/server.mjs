// A running `rustml serve`.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

/** Starts one on a free port, and resolves once it says where it is. */
export function serve(...flags) {
  const { RUSTML, MODEL } = process.env;
  const child = spawn(RUSTML, ["serve", MODEL, "--port", "0", "--ctx-size", "2048", ...flags], { stdio: ["ignore", "ignore", "pipe"] });
  process.on("exit", () => child.kill("SIGKILL"));
  const lines = [];
  return new Promise((resolve, reject) => {
    createInterface({ input: child.stderr }).on("line", (line) => {
      lines.push(line);
      const at = line.match(/ at (http:\/\/[^:]+:\d+): /);
      if (at) resolve({ url: at[1], lines, stop: () => stop(child) });
    });
    child.on("error", reject);
    child.on("exit", (code) => reject(new Error(`the server ended with ${code}:\n${lines.join("\n")}`)));
  });
}

/** Ends it as a service manager would; its exit status. */
function stop(child) {
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGTERM");
  return ended;
}
