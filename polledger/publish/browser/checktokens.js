'use strict';
// The time-stamp tokens: what they are over, and whether the claim repeats what they say.

/**
 * Each token is over what it is listed for. That an authority issued it is not looked at.
 * Gives `{tokens, claimTokens}`: those that are, `{seal, size, authority, digest, micros, accuracy, selfAsserted}`.
 */
function checkTokens(report, claim, proof, { tokens, signature }) {
  const held = new Map(tokens.map((bytes) => [toHex(sha256(bytes)), bytes]));
  const problems = strayTokens(proof, held);
  const overHeads = proof.heads.flatMap((head, seal) => {
    const found = tokensOver(head.refs, held, sha256(head.text));
    problems.push(...found.foreign.map((name) => foreignToken(name, `tree head ${seal}`)));
    return found.tokens.map((token) => ({ ...token, seal, size: head.size }));
  });
  const overClaim = signature === null ? NO_TOKENS : tokensOver(proof.claim, held, sha256(signature));
  problems.push(...overClaim.foreign.map((name) => foreignToken(name, 'this claim')));
  problems.push(...anchorProblems(claim, overHeads));
  reportTokens(report, problems, overHeads.length + overClaim.tokens.length);
  reportMissing(report, proof, held);
  return { tokens: overHeads, claimTokens: overClaim.tokens };
}

const NO_TOKENS = { tokens: [], foreign: [] };

/** Of the tokens that these references name and the page has: those over the imprint, and whose are over another. */
function tokensOver(refs, held, imprint) {
  const found = { tokens: [], foreign: [] };
  for (const { response, authority } of refs) {
    const digest = toHex(response);
    if (!held.has(digest)) continue;
    const token = readToken(held.get(digest));
    const fits = token !== null && token.hash === 'SHA-256' && sameBytes(token.imprint, imprint);
    if (fits) found.tokens.push({ ...token, authority, digest });
    else found.foreign.push(authority);
  }
  return found;
}

function foreignToken(authority, what) {
  return broken(`A time-stamp token of ${plain(authority)} is not over ${what}, for which the proof lists it.`);
}

function namedTokens({ heads, claim }) {
  return new Set([...heads.flatMap(({ refs }) => refs), ...claim].map(({ response }) => toHex(response)));
}

function strayTokens(proof, held) {
  const named = namedTokens(proof);
  const strays = [...held.keys()].filter((digest) => !named.has(digest)).length;
  if (strays === 0) return [];
  const are = strays === 1 ? 'is' : 'are';
  const what = `${counted(strays, 'time-stamp token')} in this page`;
  return [broken(`${what} ${are} not what the proof names: changed, or of another run.`)];
}

function reportTokens(report, problems, count) {
  if (count === 0 && problems.length === 0) {
    report.add('Time-stamps', 'unchecked', 'There is no time-stamp token in this page: nothing here says when.');
  } else {
    const sentence = `${allOf(count, 'time-stamp token')} over exactly these tree heads or this claim.`;
    report.addAll('Time-stamps', problems, sentence, [BY_HEADS, BY_CLAIM]);
  }
}

function reportMissing(report, proof, held) {
  const missing = [...namedTokens(proof)].filter((digest) => !held.has(digest)).length;
  if (missing === 0) return;
  const are = missing === 1 ? 'is' : 'are';
  const what = `${counted(missing, 'time-stamp token')} that the proof names`;
  report.add('Time-stamps', 'unchecked', `${what} ${are} not in this page.`);
}

/** Each time in the claim is the one of its token, over the head that the claim says. */
function anchorProblems(claim, tokens) {
  return claim.training.anchors.flatMap((anchor) => {
    const token = tokens.find(({ digest, seal }) => digest === anchor.token && seal === anchor.seal);
    if (token === undefined) {
      const cited = `The token of ${anchor.authority} for ${anchor.time} that the claim cites`;
      return [broken(`${cited} is not shown over tree head ${anchor.seal}.`)];
    }
    return compared([
      ['the time of a token', withoutZeros(anchor.time), momentText(token.micros)],
      ['the records that a token covers', anchor.size, token.size],
      ['the authority of a token', anchor.authority, token.authority],
    ]);
  });
}

function readToken(bytes) {
  try {
    return parseToken(bytes);
  } catch (error) {
    if (!(error instanceof Malformed)) throw error;
    return null;
  }
}
