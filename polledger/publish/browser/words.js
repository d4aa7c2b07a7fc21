'use strict';
// Values as sentences name them.

function listed(words) {
  return words.length < 2 ? words.join('') : `${words.slice(0, -1).join(', ')} and ${words.at(-1)}`;
}

/** A text from outside on one line, without marks that turn the direction of writing. */
function plain(text) {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g, '\ufffd');
}

function shown(value) {
  if (value === undefined) return 'nothing';
  if (typeof value === 'number') return value.toLocaleString('en');
  return typeof value === 'string' ? `“${shortened(plain(value))}”` : String(value);
}

/** Digests are cut: the whole of them stands under the details. */
function shortened(text) {
  return /^[0-9a-f]{24,}$/.test(text) ? text.slice(0, 16) + '…' : text;
}

function shortList(numbers) {
  return numbers.length <= 6 ? numbers.join(', ') : `${numbers.slice(0, 3).join(', ')} … ${numbers.at(-1)}`;
}

function counted(number, word) {
  return `${number.toLocaleString('en')} ${word}${number === 1 ? '' : 's'}`;
}

function allOf(number, word) {
  return number === 1 ? `The one ${word} is` : `All ${counted(number, word)} are`;
}

const hexOf = (bytes) => (bytes === undefined ? undefined : toHex(bytes));

/** RFC 3339 in UTC, without zeros at the end of the fraction. */
function momentText(micros) {
  const seconds = new Date(Number(micros / 1000n)).toISOString().slice(0, 19);
  return withoutZeros(`${seconds}.${String(micros % 1000000n).padStart(6, '0')}Z`);
}

function withoutZeros(moment) {
  const [seconds, fraction = ''] = moment.slice(0, -1).split('.');
  const digits = fraction.replace(/0+$/, '');
  return seconds + (digits === '' ? '' : '.' + digits) + 'Z';
}
