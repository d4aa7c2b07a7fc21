'use strict';
// PL-MP/1, the canonical subset of MessagePack in which every record is written (docs/protocol.md, section 1).
// Decoding accepts one spelling of each value, so what was hashed is exactly what is shown. A map becomes an object
// without prototype, a bin a Uint8Array.

const RECORD_LIMITS = { size: 2 ** 20, depth: 24, count: 200000 };

const SHORT_MAP = 0x80;
const SHORT_ARRAY = 0x90;
const SHORT_TEXT = 0xa0;
const NEGATIVE = 0xe0;

/** First byte -> bytes of the length that follows, and the smallest length that needs them. */
const BINARIES = { 0xc4: [1, 0], 0xc5: [2, 2 ** 8], 0xc6: [4, 2 ** 16] };
const TEXTS = { 0xd9: [1, 32], 0xda: [2, 2 ** 8], 0xdb: [4, 2 ** 16] };
const ARRAYS = { 0xdc: [2, 16], 0xdd: [4, 2 ** 16] };
const MAPS = { 0xde: [2, 16], 0xdf: [4, 2 ** 16] };
/** First byte -> bytes of the number, and the magnitude from which on it needs them. */
const POSITIVES = { 0xcc: [1, 2 ** 7], 0xcd: [2, 2 ** 8], 0xce: [4, 2 ** 16], 0xcf: [8, 2 ** 32] };
const NEGATIVES = { 0xd0: [1, 2 ** 5], 0xd1: [2, 2 ** 7], 0xd2: [4, 2 ** 15], 0xd3: [8, 2 ** 31] };

/** The value that `bytes` encode, all of them. Which fields a map must have is not looked at. */
function decodePlmp(bytes, limits = RECORD_LIMITS) {
  demand(bytes.length <= limits.size, `a value takes more than ${limits.size} bytes`);
  const decoder = new PlmpDecoder(bytes, limits);
  const value = decoder.value(0);
  demand(decoder.atEnd(), 'bytes follow the end of a value');
  return value;
}

class PlmpDecoder {
  #bytes;
  #limits;
  #position = 0;
  #count = 1;

  constructor(bytes, limits) {
    this.#bytes = bytes;
    this.#limits = limits;
  }

  atEnd() {
    return this.#position === this.#bytes.length;
  }

  value(depth) {
    const first = this.#take(1)[0];
    if (first < SHORT_MAP) return first;
    if (first >= NEGATIVE) return first - 256;
    if (first < SHORT_ARRAY) return this.#map(first - SHORT_MAP, depth);
    if (first < SHORT_TEXT) return this.#array(first - SHORT_ARRAY, depth);
    if (first < 0xc0) return this.#text(first - SHORT_TEXT);
    if (first === 0xc2 || first === 0xc3) return first === 0xc3;
    if (first in BINARIES) return this.#take(this.#length(BINARIES[first])).slice();
    if (first in TEXTS) return this.#text(this.#length(TEXTS[first]));
    if (first in ARRAYS) return this.#array(this.#length(ARRAYS[first]), depth);
    if (first in MAPS) return this.#map(this.#length(MAPS[first]), depth);
    if (first in POSITIVES) return this.#positive(POSITIVES[first]);
    if (first in NEGATIVES) return this.#negative(NEGATIVES[first]);
    throw new Malformed('a value is nil, a float, an extension or no MessagePack at all');
  }

  #take(length) {
    const end = this.#position + length;
    demand(end <= this.#bytes.length, 'a value is cut off');
    const taken = this.#bytes.subarray(this.#position, end);
    this.#position = end;
    return taken;
  }

  #length([width, least]) {
    const length = readUnsigned(this.#take(width));
    demand(length >= least, 'a length is not in its shortest form');
    return length;
  }

  #positive([width, least]) {
    const number = Number(BigInt('0x' + toHex(this.#take(width))));
    demand(number >= least, 'a number is not in its shortest form');
    demand(Number.isSafeInteger(number), 'a number is beyond 2^53-1');
    return number;
  }

  #negative([width, least]) {
    const number = Number(BigInt.asIntN(8 * width, BigInt('0x' + toHex(this.#take(width)))));
    demand(number < -least, 'a number is not in its shortest form');
    demand(Number.isSafeInteger(number), 'a number is beyond 2^53-1');
    return number;
  }

  #text(length) {
    const text = toText(this.#take(length));
    demand(text.normalize('NFC') === text, 'a text is not in normal form C');
    return text;
  }

  #enter(values, depth) {
    this.#count += values;
    demand(this.#count <= this.#limits.count, 'a value has too many parts');
    demand(depth < this.#limits.depth, 'a value is nested too deeply');
  }

  #array(length, depth) {
    this.#enter(length, depth);
    const items = [];
    for (let i = 0; i < length; i++) items.push(this.value(depth + 1));
    return items;
  }

  #map(length, depth) {
    this.#enter(2 * length, depth);
    const map = Object.create(null);
    let previous = '';
    for (let i = 0; i < length; i++) {
      const key = this.value(depth + 1);
      demand(typeof key === 'string' && /^[a-z0-9_]+$/.test(key), 'a name is not of a-z, 0-9 and _');
      demand(key > previous, 'names are not in ascending order, each once');
      map[key] = this.value(depth + 1);
      previous = key;
    }
    return map;
  }
}

/** The one encoding of text, integers, booleans, Uint8Array, arrays and objects of these. Texts stay as they are. */
function encodePlmp(value) {
  if (value instanceof Uint8Array) return joinBytes([plmpHead(value.length, BINARIES), value]);
  if (typeof value === 'string') {
    const text = fromText(value);
    return joinBytes([plmpHead(text.length, TEXTS, SHORT_TEXT, 32), text]);
  }
  if (typeof value === 'boolean') return Uint8Array.of(value ? 0xc3 : 0xc2);
  if (typeof value === 'number')
    return value < 0 ? plmpNegative(value) : plmpHead(value, POSITIVES, 0, 2 ** 7);
  if (Array.isArray(value)) {
    return joinBytes([plmpHead(value.length, ARRAYS, SHORT_ARRAY, 16), ...value.map(encodePlmp)]);
  }
  const keys = Object.keys(value).sort();
  const members = keys.flatMap((key) => [encodePlmp(key), encodePlmp(value[key])]);
  return joinBytes([plmpHead(keys.length, MAPS, SHORT_MAP, 16), ...members]);
}

function plmpNegative(number) {
  if (number >= -32) return Uint8Array.of(256 + number);
  const [first, [width]] = Object.entries(NEGATIVES).findLast(([, [, least]]) => number < -least);
  const digits = BigInt.asUintN(8 * width, BigInt(number)).toString(16);
  return joinBytes([Uint8Array.of(Number(first)), fromHex(digits)]);
}

/** The head for a length or number: one byte below `end`, otherwise the narrowest form of the table. */
function plmpHead(number, forms, short = 0, end = 0) {
  if (number < end) return Uint8Array.of(short + number);
  const [first, [width]] = Object.entries(forms).findLast(([, [, least]]) => number >= least);
  const digits = BigInt(number)
    .toString(16)
    .padStart(2 * width, '0');
  return joinBytes([Uint8Array.of(Number(first)), fromHex(digits)]);
}
