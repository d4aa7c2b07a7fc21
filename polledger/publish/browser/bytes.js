'use strict';
// Byte strings are Uint8Array throughout. Whatever is not exactly what a format says raises Malformed.

/** Bytes or text that break their format; the message is a sentence without its full stop. */
class Malformed extends Error {}

function demand(condition, message) {
  if (!condition) throw new Malformed(message);
}

const DIGEST_BYTES = 32;

function sameBytes(one, other) {
  return one.length === other.length && one.every((byte, i) => byte === other[i]);
}

/** -1, 0 or 1: the order of two byte strings, a prefix before what it begins. */
function compareBytes(one, other) {
  const length = Math.min(one.length, other.length);
  for (let i = 0; i < length; i++) {
    if (one[i] !== other[i]) return one[i] < other[i] ? -1 : 1;
  }
  return Math.sign(one.length - other.length);
}

function joinBytes(parts) {
  const joined = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  let position = 0;
  for (const part of parts) {
    joined.set(part, position);
    position += part.length;
  }
  return joined;
}

/** The number that big-endian bytes hold; exact up to six bytes. */
function readUnsigned(bytes) {
  return bytes.reduce((number, byte) => number * 256 + byte, 0);
}

function toHex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** The bytes of lower-case hexadecimal digits. */
function fromHex(text) {
  demand(/^(?:[0-9a-f]{2})*$/.test(text), 'a value is not hexadecimal');
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

/** The bytes of base64 in its one canonical spelling: padded, no blanks, no stray bits. */
function fromBase64(text) {
  let raw = null;
  try {
    raw = atob(text);
  } catch {
    demand(false, 'a value is not base64');
  }
  demand(btoa(raw) === text, 'a value is not in canonical base64');
  return Uint8Array.from(raw, (character) => character.charCodeAt(0));
}

function toBase64(bytes) {
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''));
}

const UTF8 = new TextEncoder();

function fromText(text) {
  demand(text.isWellFormed(), 'a text has half of a character');
  return UTF8.encode(text);
}

/** The text of UTF-8 bytes. A byte order mark is a character like any other. */
function toText(bytes) {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new Malformed('a text is not UTF-8');
  }
}
