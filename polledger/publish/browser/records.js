'use strict';
// The records of a ledger (docs/protocol.md, section 3): which fields each has, and of what kind.
// A kind is a function that says whether a value is of it.

const INT_MAX = Number.MAX_SAFE_INTEGER;
const CONFIG_BYTES = 2 ** 16;
const CONFIG_DEPTH = 16;
const ENVIRONMENT_CHARACTERS = 2 ** 14;

const isFlag = (value) => typeof value === 'boolean';
const isCount = (value) => Number.isSafeInteger(value) && value >= 0;
const isPositive = (value) => isCount(value) && value > 0;
const isInteger = (value) => Number.isSafeInteger(value);
const isBin = (least, most) => (value) =>
  value instanceof Uint8Array && value.length >= least && value.length <= most;
const isDigest = isBin(DIGEST_BYTES, DIGEST_BYTES);
const isReal = isBin(8, 8);
const isText = (least, most) => (value) =>
  typeof value === 'string' && between([...value].length, least, most);
const isName = isText(1, 256);
const isLine = isText(0, 1024);
const isOneOf = (...words) => (value) => words.includes(value);
const isEither = (...kinds) => (value) => kinds.some((kind) => kind(value));
const isList = (kind, most) => (value) =>
  Array.isArray(value) && value.length <= most && value.every(kind);
const isNamed = (kind, most = Infinity) => (value) =>
  isMap(value) && Object.keys(value).length <= most && Object.entries(value).every(isPairOf(kind));

function isPairOf(kind) {
  return ([key, value]) => isText(1, 64)(key) && kind(value);
}

function between(number, least, most) {
  return number >= least && number <= most;
}

function isMap(value) {
  return value !== null && typeof value === 'object' && Object.getPrototypeOf(value) === null;
}

/** A map with exactly these fields; one whose name ends in a question mark may be absent. */
function isStruct(fields) {
  const names = Object.keys(fields).map((name) => name.replace('?', ''));
  return (value) =>
    isMap(value) &&
    Object.keys(value).every((name) => names.includes(name)) &&
    Object.entries(fields).every(([name, kind]) => {
      const optional = name.endsWith('?');
      const key = name.replace('?', '');
      return key in value ? kind(value[key]) : optional;
    });
}

const isEnvironmentFields = isStruct({
  device: isLine, cpu: isLine, capability: isLine, torch: isLine, torch_git: isLine, cuda: isLine,
  cudnn: isLine, driver: isLine, python: isLine, numpy: isLine, platform: isLine, polledger: isLine,
  threads: isCount, interop_threads: isCount,
  flags: isNamed(isEither(isLine, isInteger, isFlag), 256),
});

function isEnvironment(value) {
  if (!isEnvironmentFields(value)) return false;
  const texts = [...Object.values(value), ...Object.entries(value.flags).flat()];
  const characters = texts.map((text) => (typeof text === 'string' ? [...text].length : 0));
  return characters.reduce((total, length) => total + length, 0) <= ENVIRONMENT_CHARACTERS;
}

function isConfig(value) {
  return isNamed(isSetting(CONFIG_DEPTH - 1))(value) && encodePlmp(value).length <= CONFIG_BYTES;
}

const isSetting = (depth) => (value) => {
  if (value instanceof Uint8Array) return isReal(value) && !Number.isNaN(readReal(value));
  if (Array.isArray(value)) return depth > 0 && value.every(isSetting(depth - 1));
  if (isMap(value)) return depth > 0 && isNamed(isSetting(depth - 1))(value);
  return isFlag(value) || isInteger(value) || typeof value === 'string';
};

function readReal(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, 8).getFloat64(0);
}

const COMMON = { v: isOneOf(1), run: isBin(16, 16), index: isCount };

const RECORDS = {
  genesis: {
    task: isDigest, kind: isOneOf('recipe', 'custom'), config: isConfig, seed: isCount, bound: isFlag,
    key: isDigest, every: isPositive, warm: isCount, steps: isPositive,
    'dataset?': isStruct({ root: isDigest, size: isPositive }),
    'domains?': isList(
      isStruct({
        field: isName, kind: isOneOf('range', 'one_hot', 'grid'),
        'low?': isReal, 'high?': isReal, 'step?': isReal,
      }),
      4096,
    ),
    objects: isList(
      isStruct({
        name: isName, kind: isOneOf('module', 'optimizer', 'other'),
        'buffers?': isList(isText(1, 4096), 100000),
      }),
      4096,
    ),
    environment: isEnvironment, origin: isOneOf('scratch', 'parent', 'external'),
    'parent?': isStruct({ 'claim?': isDigest, head: isDigest, mode: isOneOf('model', 'continue') }),
    'external?': isDigest, 'fresh?': isList(isText(1, 4096), 100000),
    'terms?': isStruct({ 'every?': isPositive, 'nonce?': isBin(16, 64), 'policy?': isDigest }),
  },
  step: {
    step: isCount, batch: isDigest,
    'groups?': isList(
      isStruct({
        optimizer: isName, index: isCount, values: isNamed(isEither(isReal, isInteger, isFlag), 256),
      }),
      10000,
    ),
    'examples?': isList(isCount, 131072),
    'metrics?': isNamed(isReal, 256),
  },
  checkpoint: { step: isCount, root: isDigest, stored: isFlag },
  resume: {
    environment: isEnvironment, source: isCount, 'first?': isCount, 'last?': isCount, reason: isLine,
  },
  final: { checkpoint: isCount, object: isName, model_root: isDigest, steps: isCount },
};

/** The record that these bytes are. Index, run and signature are for the caller to compare. */
function parseRecord(bytes) {
  const record = decodePlmp(bytes);
  const isKnown = isMap(record) && typeof record.type === 'string' && Object.hasOwn(RECORDS, record.type);
  demand(isKnown, 'a record is of no known type');
  const fields = { ...COMMON, ...RECORDS[record.type], type: isName };
  demand(isStruct(fields)(record), `a ${record.type} record has other fields than this version knows`);
  if (record.type === 'genesis') demandSoundGenesis(record);
  if (record.type === 'resume') {
    demand('first' in record === 'last' in record, 'a range of abandoned records has one end');
  }
  return record;
}

function demandSoundGenesis(genesis) {
  demand(genesis.index === 0, 'a genesis record is not record 0');
  demand((genesis.origin === 'parent') === 'parent' in genesis, 'origin and parent do not fit together');
  demand((genesis.origin === 'external') === 'external' in genesis, 'origin and external do not fit together');
  demandSoundFresh(genesis);
  demand(eachOnce((genesis.domains ?? []).map((domain) => domain.field)), 'a field is described twice');
  demand(eachOnce(genesis.objects.map((object) => object.name)), 'an object of the state is listed twice');
}

/** Names that are not taken from parent or file: only where the model alone is taken, ascending, each once. */
function demandSoundFresh({ fresh, origin, parent }) {
  if (fresh === undefined) return;
  demand(origin !== 'scratch' && parent?.mode !== 'continue', 'fresh and origin do not fit together');
  const names = fresh.map(fromText);
  const ascend = names.every((name, i) => i === 0 || compareBytes(names[i - 1], name) < 0);
  demand(fresh.length > 0 && ascend, 'the names of fresh are not ascending, each once');
}

function eachOnce(values) {
  return new Set(values).size === values.length;
}
