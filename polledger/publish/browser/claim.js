'use strict';
// A claim: an in-toto statement in a DSSE envelope; and the public proof beside it (docs/protocol.md, section 13).
// Reading checks the form alone.

const IN_TOTO = 'application/vnd.in-toto+json';
const STATEMENT_TYPE = 'https://in-toto.io/Statement/v1';
const PREDICATE_TYPE = 'urn:polledger:claim:1';
const MODEL_ROOT = 'polledgerModelRoot1';
const ED25519_SPKI = fromHex('302a300506032b6570032100');
const PROOF_LIMITS = { size: 2 ** 26, depth: 8, count: 4000000 };
const PATH_MAX = 64;

const isHex = (characters) => (value) =>
  typeof value === 'string' && value.length === characters && /^[0-9a-f]*$/.test(value);
const isHex32 = isHex(64);
/** No controls and no marks that turn the direction of writing: people read these lines beside a signature. */
const isPlain = (least, most) => (value) =>
  isText(least, most)(value) && !/[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/.test(value);
const isTitle = isPlain(1, 256);
const isMoment = (value) =>
  typeof value === 'string' && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$/.test(value);

const isEnvelope = isStruct({
  payload: (value) => typeof value === 'string',
  payloadType: isText(1, 256),
  signatures: isList(isStruct({ sig: isText(1, 8192), 'keyid?': isText(0, 256) }), 64),
});

const isModel = isStruct({
  name: isTitle, object: isTitle, root: isHex32,
  tensors: isList(
    isStruct({ name: isPlain(1, 4096), dtype: isText(1, 32), shape: isList(isCount, 64), root: isHex32 }),
    150000,
  ),
  files: isList(isStruct({ name: isTitle, size: isPositive, sha256: isHex32 }), 1000),
});

const isTraining = isStruct({
  run: isHex(32), genesis: isHex32,
  head: isStruct({ seal: isCount, size: isPositive, root: isHex32, digest: isHex32 }),
  kind: isOneOf('recipe', 'custom'), steps: isCount, intervals: isCount, resumes: isCount,
  every: isPositive, warm: isCount, seed: isCount, bound: isFlag,
  origin: isOneOf('scratch', 'parent', 'external'), 'external?': isHex32,
  anchors: isList(
    isStruct({ seal: isCount, size: isPositive, authority: isTitle, time: isMoment, token: isHex32 }),
    1000,
  ),
});

const isClaim = isStruct({
  v: isOneOf(1),
  claimant: isStruct({
    key: isHex32, name: isPlain(0, 1024), contact: isPlain(0, 1024),
    'further?': isList(
      isStruct({ algorithm: isOneOf('ed25519', 'ml-dsa-44', 'ecdsa-p256'), key: isText(64, 2624) }),
      16,
    ),
  }),
  model: isModel, training: isTraining,
  data: isStruct({ disclosure: isOneOf('withheld', 'batches'), 'root?': isHex32, 'size?': isPositive }),
  task: isHex32, environment: isEnvironment,
  parents: isList(isStruct({ head: isHex32, mode: isOneOf('model', 'continue'), 'claim?': isHex32 }), 1),
  not_claimed: isList(isPlain(0, 1024), 64),
  'supersedes?': isHex32,
});

const isStatement = isStruct({
  _type: isOneOf(STATEMENT_TYPE),
  predicateType: isOneOf(PREDICATE_TYPE),
  subject: isList(isStruct({ name: isTitle, digest: isNamedDigest }), 1001),
  predicate: isClaim,
});

function isNamedDigest(value) {
  return isMap(value) && Object.keys(value).length === 1 && Object.values(value).every(isHex32);
}

/** `{claim, signed, signatures}`: the predicate, the bytes under the signatures, and these; none of it is checked. */
function parseEnvelope(bytes) {
  const envelope = parseStrictJson(toText(bytes));
  demand(isEnvelope(envelope), 'the file is no DSSE envelope');
  demand(envelope.payloadType === IN_TOTO, 'the envelope holds something else than an in-toto statement');
  const payload = fromAnyBase64(envelope.payload);
  return {
    claim: parseStatement(payload),
    signed: preAuthentication(envelope.payloadType, payload),
    signatures: envelope.signatures.map(({ sig, keyid }) => ({ keyid: keyid ?? '', sig: fromAnyBase64(sig) })),
  };
}

/** DSSE allows both alphabets. */
function fromAnyBase64(text) {
  return fromBase64(text.replaceAll('-', '+').replaceAll('_', '/'));
}

/** PAE of DSSE 1.0: what is signed is type and payload with their lengths, not JSON. */
function preAuthentication(type, payload) {
  const kind = fromText(type);
  return joinBytes([fromText(`DSSEv1 ${kind.length} ${type} ${payload.length} `), payload]);
}

function parseStatement(payload) {
  const statement = parseStrictJson(toText(payload));
  demand(isStatement(statement), 'the statement has other fields than this version of a claim knows');
  const { predicate: claim, subject } = statement;
  const { model, training, data, parents } = claim;
  const files = model.files.map((file) => [file.name, 'sha256', file.sha256]);
  const subjects = [[model.name, MODEL_ROOT, model.root], ...files];
  const found = subject.map(({ name, digest }) => [name, ...Object.entries(digest)[0]]);
  demand(JSON.stringify(found) === JSON.stringify(subjects), 'the subjects are not the model that the claim describes');
  demand(claim.not_claimed.length > 0, 'the claim does not say what it does not claim');
  demand((training.origin === 'external') === 'external' in training, 'origin and external do not fit together');
  demand((training.origin === 'parent') === (parents.length === 1), 'origin and parents do not fit together');
  const committed = data.disclosure === 'withheld';
  demand(committed === 'root' in data && committed === 'size' in data, 'the data are described in no known way');
  return claim;
}

/** A hint at the key in an envelope: SHA-256 of its SubjectPublicKeyInfo. */
function dsseKeyId(key) {
  return toHex(sha256(ED25519_SPKI, key));
}

const isPath = isList(isDigest, PATH_MAX);
const isTokenRef = isStruct({
  authority: isName, request: isDigest, response: isDigest,
  'chain?': isList(isDigest, 32), 'revocation?': isList(isDigest, 64),
});
const isSeal = isStruct({
  v: isOneOf(1), type: isOneOf('seal'), index: isCount, note: isBin(0, 2 ** 16),
  tokens: isList(isTokenRef, 1000), 'cosignatures?': isList(isBin(1, 512), 64),
});
const isPublicProof = isStruct({
  v: isOneOf(1), type: isOneOf('public_proof'), run: isBin(16, 16),
  seals: isList(isSeal, 100000),
  consistency: isList(isPath, 100000),
  records: isList(isStruct({ record: isBin(1, 2 ** 20), path: isPath }), 10000),
  claim: isList(isTokenRef, 1000),
});

/** The public proof, with `note` and `record` of its parts still to be read. */
function parsePublicProof(bytes) {
  const proof = decodePlmp(bytes, PROOF_LIMITS);
  demand(isPublicProof(proof), 'the proof has other fields than this version knows');
  demand(proof.seals.length > 0 && proof.records.length > 0, 'the proof holds no tree head or no record');
  demand(proof.consistency.length === proof.seals.length - 1, 'between two heads stands not one consistency proof');
  return proof;
}
