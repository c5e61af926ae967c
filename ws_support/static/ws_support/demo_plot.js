// The plot of the demo page: the round-trip times of the last messages.

import { byId } from "./demo_page.js";

const MAX_SAMPLES = 120;

export class RoundTrips {
  #samples = [];
  #isDrawing = false;

  /** Add a round-trip time: `duration` in milliseconds. */
  add(duration) {
    this.#samples.push(duration);
    if (this.#samples.length > MAX_SAMPLES) this.#samples.shift();
    // Draw once for each frame, for any number of new samples.
    if (!this.#isDrawing) requestAnimationFrame(() => this.#draw());
    this.#isDrawing = true;
  }

  #draw() {
    this.#isDrawing = false;
    const samples = this.#samples;
    const sorted = [...samples].sort((one, other) => one - other);
    const median = quantile(sorted, 0.5);
    const p95 = quantile(sorted, 0.95);
    const top = roundUp(sorted.at(-1));
    const height = (duration) => 100 - (100 * duration) / top;
    // The newest sample is at the right end.
    const start = MAX_SAMPLES - samples.length;
    const points = samples.map((duration, index) => `${start + index} ${height(duration)}`);
    const line = `M${points.join("L")}`;
    this.#path("line", samples.length > 1 ? line : `${line}h0`);
    this.#path("area", `${line}V100H${start}Z`);
    this.#path("median", `M0 ${height(median)}H${MAX_SAMPLES - 1}`);
    this.#path("p95", `M0 ${height(p95)}H${MAX_SAMPLES - 1}`);
    document.querySelector(".scale").textContent = `${top} ms`;
    byId("plotWords").textContent =
      `Median ${inMilliseconds(median)}, 95 % within ${inMilliseconds(p95)}, the last one` +
      ` ${inMilliseconds(samples.at(-1))} (of the last ${samples.length}).`;
  }

  #path(name, definition) {
    byId("plot").querySelector(`.${name}`).setAttribute("d", definition);
  }
}

/** Return the quantile `part` of the list `sorted`. */
function quantile(sorted, part) {
  return sorted[Math.max(Math.ceil(part * sorted.length) - 1, 0)];
}

/** Return a round number from `value` on: 1, 2 or 5 times a power of ten. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 0.1)));
  const factor = [1, 2, 5, 10].find((each) => each * power >= value) ?? 10;
  return Number((factor * power).toPrecision(1));
}

function inMilliseconds(duration) {
  return `${duration.toFixed(1)} ms`;
}
