'use strict';
// JSON that every reader understands alike. JSON.parse takes the last of two equal names and rounds large numbers,
// others do otherwise: both are refused here.

const JSON_DEPTH = 32;

/** The value of a JSON text. Refuses names given twice and numbers that are no exact integer. */
function parseStrictJson(text) {
  let value = null;
  try {
    value = JSON.parse(text, withoutPrototype);
  } catch {
    throw new Malformed('a text is not JSON');
  }
  const outside = text.replace(/"[^"\\]*(?:\\.[^"\\]*)*"/gs, '');
  // Read as a number, 60.0 is 60, and a fraction beyond 2^53 is gone.
  demand(!/\d[.eE]|-0/.test(outside), 'a number in JSON is no exact integer');
  // One colon stands outside of strings for each name.
  demand(countNames(value) === outside.split(':').length - 1, 'a JSON object gives a name twice');
  return value;
}

/** Objects become maps without prototype: no name that JSON can carry means anything but itself. */
function withoutPrototype(name, value) {
  const isObject = value !== null && typeof value === 'object' && !Array.isArray(value);
  return isObject ? Object.assign(Object.create(null), value) : value;
}

function countNames(value, depth = 0) {
  demand(depth <= JSON_DEPTH, 'a JSON value is nested too deeply');
  if (typeof value === 'number') demand(Number.isSafeInteger(value), 'a number in JSON is no exact integer');
  if (value === null || typeof value !== 'object') return 0;
  const members = Object.values(value);
  const own = Array.isArray(value) ? 0 : members.length;
  return members.reduce((total, member) => total + countNames(member, depth + 1), own);
}
