'use strict';
// SHA-256 (FIPS 180-4). The browser's own digest wants a whole message at once; this one takes it in pieces,
// so a model file of any size is hashed as it is read, and answers at once.

const SHA256_START = [
  0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
];

/** The first 32 bits of the fractional parts of the cube roots of the first 64 primes. */
const SHA256_ROUND = Int32Array.of(
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
);

const SHA256_BLOCK = 64;

class Sha256 {
  #state = Int32Array.from(SHA256_START, (word) => word | 0);
  #schedule = new Int32Array(64);
  #pending = new Uint8Array(SHA256_BLOCK);
  #held = 0;
  #length = 0;

  /** Hash more bytes; gives back itself. */
  update(bytes) {
    this.#length += bytes.length;
    let position = 0;
    if (this.#held > 0) {
      position = Math.min(SHA256_BLOCK - this.#held, bytes.length);
      this.#pending.set(bytes.subarray(0, position), this.#held);
      this.#held += position;
      if (this.#held < SHA256_BLOCK) return this;
      this.#compress(this.#pending, 0);
    }
    for (; position + SHA256_BLOCK <= bytes.length; position += SHA256_BLOCK) this.#compress(bytes, position);
    this.#pending.set(bytes.subarray(position));
    this.#held = bytes.length - position;
    return this;
  }

  /** The 32 bytes of the digest. Nothing may be hashed afterwards. */
  digest() {
    const bits = this.#length * 8;
    const zeros = (SHA256_BLOCK + 55 - (this.#length % SHA256_BLOCK)) % SHA256_BLOCK;
    const padding = new DataView(new ArrayBuffer(1 + zeros + 8));
    padding.setUint8(0, 0x80);
    padding.setUint32(1 + zeros, Math.floor(bits / 2 ** 32));
    padding.setUint32(5 + zeros, bits % 2 ** 32);
    this.update(new Uint8Array(padding.buffer));
    const result = new DataView(new ArrayBuffer(DIGEST_BYTES));
    this.#state.forEach((word, i) => result.setInt32(4 * i, word));
    return new Uint8Array(result.buffer);
  }

  #compress(bytes, start) {
    const words = this.#schedule;
    for (let i = 0, at = start; i < 16; i++, at += 4) {
      words[i] = (bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3];
    }
    for (let i = 16; i < 64; i++) {
      const early = words[i - 15];
      const late = words[i - 2];
      const s0 = ((early >>> 7) | (early << 25)) ^ ((early >>> 18) | (early << 14)) ^ (early >>> 3);
      const s1 = ((late >>> 17) | (late << 15)) ^ ((late >>> 19) | (late << 13)) ^ (late >>> 10);
      words[i] = (words[i - 16] + s0 + words[i - 7] + s1) | 0;
    }
    const state = this.#state;
    let [a, b, c, d] = [state[0], state[1], state[2], state[3]];
    let [e, f, g, h] = [state[4], state[5], state[6], state[7]];
    for (let i = 0; i < 64; i++) {
      const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + SHA256_ROUND[i] + words[i]) | 0;
      const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + t1) | 0;
      d = c;
      c = b;
      b = a;
      a = (t1 + t2) | 0;
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
    state[5] += f;
    state[6] += g;
    state[7] += h;
  }
}

function sha256(...parts) {
  const hash = new Sha256();
  for (const part of parts) hash.update(part);
  return hash.digest();
}
