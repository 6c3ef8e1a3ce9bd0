/** A plot of points, drawn as SVG. */

const HEIGHT = 280;
const CHARACTER = 8; // the width of a digit, about
const RIGHT = 16;
const TOP = 12;
const BOTTOM = 32;

/**
 * Draw points. What was drawn before is replaced.
 * @param {SVGElement} svg
 * @param {{n: number, digits: number}[]} points
 */
export function plot(svg, points) {
  const width = svg.clientWidth || 480; // so that text has its size on a phone, too
  const ns = points.map((point) => point.n);
  const up = axis(points.map((point) => point.digits), 5);
  const left = widthOf(up.at(-1));
  const room = Math.floor((width - left - RIGHT) / widthOf(Math.max(0, ...ns)));
  const across = axis(ns, Math.max(1, Math.min(5, room)));
  const x = (n) => left + (n / across.at(-1)) * (width - left - RIGHT);
  const y = (digits) => HEIGHT - BOTTOM - (digits / up.at(-1)) * (HEIGHT - TOP - BOTTOM);
  const drawn = [];
  for (const value of up) {
    drawn.push(shape("line", { class: "grid", x1: left, x2: width - RIGHT, y1: y(value), y2: y(value) }));
    drawn.push(label(value, { x: left - 8, y: y(value) + 4, "text-anchor": "end" }));
  }
  for (const value of across) {
    const anchor = value === across.at(-1) ? "end" : "middle";
    drawn.push(label(value, { x: x(value) + (anchor === "end" ? RIGHT : 0), y: HEIGHT - 8, "text-anchor": anchor }));
  }
  const r = points.length > 200 ? 2 : 3.5;
  for (const { n, digits } of points) drawn.push(shape("circle", { cx: x(n), cy: y(digits), r }));
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.replaceChildren(...drawn);
}

/** Round numbers from 0 to the largest of some values or a little beyond, in so many steps at most. */
function axis(values, steps) {
  const largest = Math.max(1, ...values);
  const power = 10 ** Math.floor(Math.log10(largest / steps));
  const step = Math.max(1, [1, 2, 5, 10].map((factor) => factor * power).find((each) => each * steps >= largest));
  return Array.from({ length: Math.ceil(largest / step) + 1 }, (_, place) => place * step);
}

/** How wide a number is written, with some space. */
function widthOf(value) {
  return CHARACTER * (value.toLocaleString("en").length + 2);
}

function label(value, attributes) {
  const text = shape("text", attributes);
  text.textContent = value.toLocaleString("en");
  return text;
}

function shape(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
