/** Decimal digits of numbers that come as hexadecimal text, such as "0x37". To write all of a long one takes a while. */

/**
 * Count the decimal digits of a number.
 * @param {string} hex
 */
export function countDigits(hex) {
  return hex === "0x0" ? 1 : Math.floor(log10(hex)) + 1;
}

/**
 * Write a large number in short.
 * @param {string} hex
 */
export function inShort(hex) {
  const exponent = Math.floor(log10(hex));
  return `≈\u00a0${(10 ** (log10(hex) - exponent)).toFixed(5)} ×\u00a010^${exponent.toLocaleString("en")}`;
}

/** Write a number in full. */
export function inFull(hex) {
  return BigInt(hex).toString();
}

/** The logarithm of a number above 0, by its first 52 bits, which a float holds exactly. */
function log10(hex) {
  const first = hex.slice(2, 15);
  return Math.log10(parseInt(first, 16)) + (hex.length - 2 - first.length) * Math.log10(16);
}
