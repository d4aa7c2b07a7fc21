'use strict';
// The model root of a safetensors file (docs/protocol.md, section 5), and the SHA-256 of any file, read in pieces:
// a file may be larger than memory.

const CHUNK = 65536;
const PIECE = 64 * CHUNK;
const HEADER_BYTES = 100000000;

/** safetensors' name of a type -> the name in a state, and bytes per element. */
const DTYPES = {
  BOOL: ['bool', 1], U8: ['uint8', 1], U16: ['uint16', 2], U32: ['uint32', 4], U64: ['uint64', 8],
  I8: ['int8', 1], I16: ['int16', 2], I32: ['int32', 4], I64: ['int64', 8],
  F8_E4M3: ['float8_e4m3fn', 1], F8_E5M2: ['float8_e5m2', 1], F8_E8M0: ['float8_e8m0fnu', 1],
  F16: ['float16', 2], BF16: ['bfloat16', 2], F32: ['float32', 4], F64: ['float64', 8], C64: ['complex64', 8],
};

const MODULE_PREFIX = /^(?:_orig_mod\.|module\.)+/;

/** The root of a growing tree, from the roots of its complete subtrees alone. */
class Frontier {
  #roots = [];
  #size = 0;

  append(leaf) {
    let node = leaf;
    for (let size = this.#size; isOdd(size); size = Math.floor(size / 2)) node = nodeHash(this.#roots.pop(), node);
    this.#roots.push(node);
    this.#size += 1;
  }

  root() {
    return this.#roots.length === 0 ? sha256() : this.#roots.reduceRight((node, left) => nodeHash(left, node));
  }
}

/** Takes the bytes of one tensor in pieces of any size. */
class TensorHasher {
  #tree = new Frontier();
  #leaf = null;
  #held = 0;

  update(bytes) {
    for (let position = 0; position < bytes.length; ) {
      this.#leaf ??= new Sha256().update(LEAF);
      const piece = bytes.subarray(position, position + CHUNK - this.#held);
      this.#leaf.update(piece);
      this.#held += piece.length;
      position += piece.length;
      if (this.#held === CHUNK) this.#finish();
    }
  }

  #finish() {
    this.#tree.append(this.#leaf.digest());
    this.#leaf = null;
    this.#held = 0;
  }

  root() {
    if (this.#leaf !== null) this.#finish();
    return this.#tree.root();
  }
}

/**
 * Reads a File once: `{sha256, size, tensors, modelRoot}`, the latter two only for safetensors (where `problem` is
 * absent). `progress` is called with the part read, 0 to 1.
 */
async function readModelFile(file, progress) {
  const whole = new Sha256();
  const layout = await safetensorsLayout(file);
  const reader = layout.problem === undefined ? new TensorReader(layout.tensors, layout.start) : null;
  for (let position = 0; position < file.size; position += PIECE) {
    const piece = new Uint8Array(await file.slice(position, position + PIECE).arrayBuffer());
    whole.update(piece);
    reader?.update(piece, position);
    progress(Math.min(1, (position + PIECE) / file.size));
  }
  const digest = whole.digest();
  const { size } = file;
  if (reader === null) return { sha256: digest, size, problem: layout.problem };
  const tensors = reader.finish();
  return { sha256: digest, size, tensors, modelRoot: modelRoot(tensors) };
}

async function safetensorsLayout(file) {
  const head = new Uint8Array(await file.slice(0, 8).arrayBuffer());
  const length = readUnsigned(head.slice().reverse());
  if (head.length < 8 || length > Math.min(HEADER_BYTES, file.size - 8)) {
    return { problem: 'it is no safetensors file, the one kind of model file that this page can take apart' };
  }
  try {
    const header = toText(new Uint8Array(await file.slice(8, 8 + length).arrayBuffer()));
    return { tensors: parseSafetensorsHeader(header, file.size - 8 - length), start: 8 + length };
  } catch (error) {
    if (!(error instanceof Malformed)) throw error;
    return { problem: `its tensors cannot be read: ${error.message}` };
  }
}

/** The tensors in the order of their bytes, which together are all `size` bytes after the header. */
function parseSafetensorsHeader(text, size) {
  const header = parseStrictJson(text);
  demand(header !== null && typeof header === 'object' && !Array.isArray(header), 'the header is no JSON object');
  const entries = Object.entries(header).filter(([name]) => name !== '__metadata__');
  const tensors = entries.map(([name, value]) => parseTensorEntry(name, value));
  tensors.sort((one, other) => one.begin - other.begin || one.end - other.end);
  let position = 0;
  for (const tensor of tensors) {
    demand(tensor.begin === position, 'the bytes of one tensor do not follow those of the one before');
    position = tensor.end;
  }
  demand(position === size, 'the header does not account for every byte of the file');
  return tensors;
}

function parseTensorEntry(name, value) {
  const isEntry = value !== null && typeof value === 'object' &&
    Object.keys(value).sort().join() === 'data_offsets,dtype,shape';
  demand(isEntry, 'a tensor is not described by dtype, shape and offsets');
  demand(name.isWellFormed(), 'a tensor has a name that is no text');
  const { dtype, shape, data_offsets: offsets } = value;
  demand(typeof dtype === 'string' && Object.hasOwn(DTYPES, dtype), 'a tensor has an unknown type');
  const areNumbers = [shape, offsets].every((list) => Array.isArray(list) && areNaturals(list));
  demand(areNumbers && offsets.length === 2 && shape.length <= 64, 'a tensor has a shape or offsets that are none');
  const [type, width] = DTYPES[dtype];
  const [begin, end] = offsets;
  const bytes = shape.reduce((product, length) => product * length, width);
  demand(end - begin === bytes, 'the bytes of a tensor do not fit its type and shape');
  return { path: escapeName(name), dtype: type, shape, begin, end };
}

function escapeName(name) {
  return name.replaceAll('~', '~0').replaceAll('/', '~1').replaceAll('#', '~2');
}

/** Gives each tensor the bytes that are its own, from pieces that come in order. */
class TensorReader {
  #tensors;
  #start;
  #current = 0;
  #hasher = new TensorHasher();
  #roots = [];

  constructor(tensors, start) {
    this.#tensors = tensors;
    this.#start = start;
  }

  update(piece, position) {
    while (this.#current < this.#tensors.length) {
      const { begin, end } = this.#tensors[this.#current];
      const from = Math.max(0, this.#start + begin - position);
      const until = this.#start + end - position;
      if (from > piece.length) return;
      this.#hasher.update(piece.subarray(from, Math.min(until, piece.length)));
      if (until > piece.length) return;
      this.#next();
    }
  }

  #next() {
    this.#roots.push(this.#hasher.root());
    this.#hasher = new TensorHasher();
    this.#current += 1;
  }

  /** The tensors, each with its root. */
  finish() {
    while (this.#current < this.#tensors.length) this.#next();
    return this.#tensors.map(({ path, dtype, shape, begin, end }, i) => ({
      path, dtype, shape, bytes: end - begin, root: this.#roots[i],
    }));
  }
}

/** Root of a published model: the structure and its tensors, each `{path, dtype, shape, bytes, root}`. */
function modelRoot(tensors) {
  const named = withShortNames(tensors);
  named.sort((one, other) => compareBytes(fromText(one.path), fromText(other.path)));
  const pairs = named.map(({ path }) => [path, ['tensor', path]]);
  const skeleton = { v: 1, type: 'skeleton', path: '', structure: ['map', pairs] };
  const entries = named.map(({ path, dtype, shape, bytes, root }) => (
    { v: 1, type: 'tensor', path, dtype, shape, bytes, root }
  ));
  return treeRoot([skeleton, ...entries].map((entry) => leafHash(encodePlmp(entry))));
}

/** Without what torch.compile and DataParallel put before every name; as they are where two would become one. */
function withShortNames(tensors) {
  const short = tensors.map((tensor) => ({ ...tensor, path: tensor.path.replace(MODULE_PREFIX, '') }));
  return eachOnce(short.map(({ path }) => path)) ? short : [...tensors];
}
