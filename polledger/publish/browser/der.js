'use strict';
// What an RFC 3161 time-stamp token says, by a strict walk over its DER. Its signature and its certificates are not
// checked here: that takes roots which the reader trusts.

const DER = {
  boolean: 0x01,
  integer: 0x02,
  octets: 0x04,
  oid: 0x06,
  time: 0x18,
  sequence: 0x30,
  set: 0x31,
};
const OID_SIGNED_DATA = '1.2.840.113549.1.7.2';
const OID_TST_INFO = '1.2.840.113549.1.9.16.1.4';
const HASHES = {
  '2.16.840.1.101.3.4.2.1': 'SHA-256',
  '2.16.840.1.101.3.4.2.2': 'SHA-384',
  '2.16.840.1.101.3.4.2.3': 'SHA-512',
};
/** Policy and name of polledger's own authority: its time is what the maker of the token says. */
const OID_SELF_ASSERTED = '2.25.179244332136762151783138347321181497817';
const SELF_ASSERTED_NAME = 'embedded authority with self-asserted time';
const OID_BYTES = 64;
const INTEGER_BYTES = 64;
const LENGTH_BYTES = 4;
const DER_TIME = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:\.(\d{0,8}[1-9]))?Z$/;

/** The tag of a constructed field `[number]`. */
const context = (number) => 0xa0 | number;
/** The tag of a primitive field `[number] IMPLICIT`. */
const implicit = (number) => 0x80 | number;

/** Reads the values in `bytes` one after the other. */
class DerReader {
  #bytes;
  #position = 0;

  constructor(bytes) {
    this.#bytes = bytes;
  }

  atEnd() {
    return this.#position === this.#bytes.length;
  }

  /** The next value, of any tag. */
  next() {
    const bytes = this.#bytes;
    const start = this.#position;
    demand(start + 2 <= bytes.length, 'a time-stamp token is cut off');
    const tag = bytes[start];
    demand((tag & 0x1f) !== 0x1f, 'a time-stamp token has a tag of several bytes');
    const [length, content] = bytes[start + 1] < 0x80 ? [bytes[start + 1], start + 2] : this.#longLength();
    demand(content + length <= bytes.length, 'a time-stamp token is cut off');
    this.#position = content + length;
    return {
      tag,
      content: bytes.subarray(content, content + length),
      raw: bytes.subarray(start, content + length),
    };
  }

  #longLength() {
    const start = this.#position + 2;
    const count = this.#bytes[start - 1] & 0x7f;
    demand(
      count >= 1 && count <= LENGTH_BYTES && start + count <= this.#bytes.length,
      'a length in a token is not DER',
    );
    const length = readUnsigned(this.#bytes.subarray(start, start + count));
    demand(length >= 0x80 && this.#bytes[start] !== 0, 'a length in a token is not DER');
    return [length, start + count];
  }

  /** The content of the next value, which must have this tag. */
  take(tag) {
    const value = this.next();
    demand(value.tag === tag, 'a time-stamp token has a field of another kind than it should');
    return value.content;
  }

  inner(tag) {
    return new DerReader(this.take(tag));
  }

  /** The content of the next value if it has this tag, otherwise null. */
  optional(tag) {
    return !this.atEnd() && this.#bytes[this.#position] === tag ? this.next().content : null;
  }

  end() {
    demand(this.atEnd(), 'a time-stamp token goes on where it should end');
  }
}

/** A reader over the content of the one value that `bytes` are. */
function readOne(bytes, tag) {
  const outer = new DerReader(bytes);
  const inner = outer.inner(tag);
  outer.end();
  return inner;
}

/** An INTEGER as a BigInt, in its shortest form. */
function readDerInteger(content) {
  demand(content.length >= 1 && content.length <= INTEGER_BYTES, 'a number in a token is empty or too long');
  if (content.length > 1) {
    const lead = content[0] * 2 + (content[1] >> 7);
    demand(lead !== 0 && lead !== 0x1ff, 'a number in a token is not in its shortest form');
  }
  return BigInt.asIntN(8 * content.length, BigInt('0x' + toHex(content)));
}

/** The dotted form of an OBJECT IDENTIFIER. */
function readOid(content) {
  const last = content[content.length - 1];
  demand(content.length <= OID_BYTES && last < 0x80, 'an object identifier in a token is not DER');
  const arcs = [];
  let number = 0n;
  let fresh = true;
  for (const byte of content) {
    demand(!(fresh && byte === 0x80), 'an object identifier in a token is not in its shortest form');
    number = (number << 7n) | BigInt(byte & 0x7f);
    fresh = byte < 0x80;
    if (fresh) {
      arcs.push(number);
      number = 0n;
    }
  }
  const first = arcs[0] < 80n ? arcs[0] / 40n : 2n;
  return [first, arcs[0] - 40n * first, ...arcs.slice(1)].join('.');
}

/** A GeneralizedTime as microseconds since 1970, a finer fraction rounded up: a time-stamp is an upper bound. */
function readTime(content) {
  const match = DER_TIME.exec(toText(content));
  demand(match !== null, 'the time in a token is not in DER form');
  const [year, month, day, hour, minute, second] = match.slice(1, 7).map(Number);
  const moment = new Date(Date.UTC(year, month - 1, day, hour, minute, second));
  demand(!Number.isNaN(moment.getTime()), 'the time in a token does not exist');
  const written = moment.toISOString().replace(/[-:T]/g, '').slice(0, 14);
  demand(written === match.slice(1, 7).join(''), 'the time in a token does not exist');
  const nanos = Number((match[7] ?? '').padEnd(9, '0'));
  return BigInt(moment.getTime()) * 1000n + BigInt(Math.ceil(nanos / 1000));
}

/** `{hash, imprint, micros, accuracy, policy, selfAsserted}` of a token, or of the response that grants it. */
function parseToken(bytes) {
  const info = readOne(tstInfoOf(bytes), DER.sequence);
  demand(readDerInteger(info.take(DER.integer)) === 1n, 'a time-stamp token is of an unknown version');
  const policy = readOid(info.take(DER.oid));
  const { hash, imprint } = readImprint(info.inner(DER.sequence));
  readDerInteger(info.take(DER.integer));
  const micros = readTime(info.take(DER.time));
  const accuracy = readAccuracy(info.optional(DER.sequence));
  info.optional(DER.boolean);
  info.optional(DER.integer);
  info.optional(context(0));
  info.optional(context(1));
  info.end();
  const selfAsserted = policy === OID_SELF_ASSERTED || holdsText(bytes, SELF_ASSERTED_NAME);
  return { hash, imprint, micros, accuracy, policy, selfAsserted };
}

function readImprint(reader) {
  const algorithm = reader.inner(DER.sequence);
  const hash = HASHES[readOid(algorithm.take(DER.oid))] ?? 'an unknown hash';
  const imprint = reader.take(DER.octets);
  reader.end();
  return { hash, imprint };
}

/** Milliseconds by which the time may be off, as the authority states it; null where it states nothing. */
function readAccuracy(content) {
  if (content === null) return null;
  const reader = new DerReader(content);
  const [seconds, millis, micros] = [DER.integer, implicit(0), implicit(1)].map((tag) => {
    const part = reader.optional(tag);
    return part === null ? 0 : Number(readDerInteger(part));
  });
  reader.end();
  return seconds * 1000 + millis + micros / 1000;
}

/** The encoded TSTInfo inside a token or a granting response. */
function tstInfoOf(bytes) {
  const token = new DerReader(tokenOf(bytes));
  const outer = token.inner(DER.sequence);
  demand(readOid(outer.take(DER.oid)) === OID_SIGNED_DATA, 'a time-stamp token is not signed data');
  const signed = outer.inner(context(0)).inner(DER.sequence);
  signed.take(DER.integer);
  signed.take(DER.set);
  const content = signed.inner(DER.sequence);
  demand(readOid(content.take(DER.oid)) === OID_TST_INFO, 'a time-stamp token holds something else');
  return content.inner(context(0)).take(DER.octets);
}

function holdsText(bytes, text) {
  return new TextDecoder('latin1').decode(bytes).includes(text);
}

function tokenOf(bytes) {
  const outer = readOne(bytes, DER.sequence);
  const first = outer.next();
  if (first.tag === DER.oid) return bytes;
  const status = new DerReader(first.content);
  demand(
    readDerInteger(status.take(DER.integer)) === 0n,
    'an authority did not grant the request for a time-stamp',
  );
  const token = outer.next();
  outer.end();
  return token.raw;
}
