'use strict';
// Ed25519 (RFC 8032) by the browser itself. A browser that lacks it cannot check signatures, and the page says so:
// a second implementation that hardly ever runs would be worth less than that sentence.

/** This browser has no Ed25519: nothing was found out about a signature. */
class NoEd25519 extends Error {}

async function verifyEd25519(key, signature, message) {
  let imported = null;
  try {
    imported = await crypto.subtle.importKey('raw', key, { name: 'Ed25519' }, false, ['verify']);
  } catch (error) {
    // DataError: 32 bytes that are no key. Anything else, a missing `subtle` included: not supported here.
    if (error.name === 'DataError') return false;
    throw new NoEd25519(error.message);
  }
  return crypto.subtle.verify({ name: 'Ed25519' }, imported, signature, message);
}
