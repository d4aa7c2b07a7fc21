'use strict';
// The model: the claim's own list of its tensors, and a file that the reader gives.

/** The tensors that the claim lists are those of the model root that it names. */
function checkTensors(report, { model }) {
  const tensors = model.tensors.map(({ name, dtype, shape, root }) => ({
    path: name,
    dtype,
    shape,
    bytes: tensorBytes(dtype, shape),
    root: fromHex(root),
  }));
  const areSized = tensors.every(({ bytes }) => Number.isSafeInteger(bytes));
  if (areSized && toHex(modelRoot(tensors)) === model.root) {
    report.add(
      'Tensors',
      'holds',
      `The claim’s list of ${counted(tensors.length, 'tensor')} makes up exactly the model that it names.`,
      [BY_CLAIM],
    );
  } else {
    report.add(
      'Tensors',
      'unchecked',
      'The claim’s list of tensors does not by itself give the model that it names: ' +
        'the model holds more than tensors, or the list is wrong. The model counts, not the list.',
    );
  }
}

function tensorBytes(dtype, shape) {
  const width = Object.values(DTYPES).find(([name]) => name === dtype)?.[1] ?? OTHER_DTYPES[dtype];
  return shape.reduce((product, length) => product * length, width ?? NaN);
}

/** Types that a state may hold and safetensors does not. */
const OTHER_DTYPES = { float8_e4m3fnuz: 1, float8_e5m2fnuz: 1, complex32: 4, complex128: 16 };

/** The findings about a file that was read (readModelFile): is it the claimed model, one of the claimed files? */
function checkModel(claim, read) {
  const report = new Report();
  report.trust(BY_CLAIM);
  if (read.problem !== undefined) {
    report.add('Model', 'unchecked', `The tensors of this file were not compared: ${read.problem}.`);
  } else if (toHex(read.modelRoot) === claim.model.root) {
    report.add(
      'Model',
      'holds',
      `This file holds the claimed model: ${counted(read.tensors.length, 'tensor')}, ` +
        'equal in name, type, shape and every byte.',
    );
  } else {
    report.add('Model', 'broken', 'This file does not hold the claimed model.');
    const differences = modelDifferences(claim.model.tensors, read.tensors);
    const none = 'Its tensors are those that the claim lists, but they give another model.';
    for (const sentence of differences.length > 0 ? differences : [none]) report.add('Model', 'broken', sentence);
  }
  const digest = toHex(read.sha256);
  const file = claim.model.files.find(({ sha256: claimed }) => claimed === digest);
  if (file !== undefined && file.size !== read.size) {
    const sizes = `the claim says ${counted(file.size, 'byte')}, it has ${counted(read.size, 'byte')}`;
    const sentence = `Its SHA-256 is that of “${plain(file.name)}” in the claim, and its size is not: ${sizes}.`;
    report.add('File', 'broken', sentence);
  } else if (file !== undefined) {
    report.add(
      'File',
      'holds',
      `It is, byte for byte, the file that the claim calls “${file.name}”. Its SHA-256 is ${digest}.`,
    );
  } else {
    report.add(
      'File',
      'unchecked',
      'As a file it is none that the claim names; the same model can lie in different files. ' +
        `Its SHA-256 is ${digest}.`,
    );
  }
  return report.settled();
}

/** Sentences about the tensors in which a file is not the claimed model. */
function modelDifferences(claimed, found) {
  const named = (tensors) => new Map(withShortNames(tensors).map((tensor) => [tensor.path, tensor]));
  const wanted = named(claimed.map((tensor) => ({ ...tensor, path: tensor.name })));
  const given = named(found.map((tensor) => ({ ...tensor, root: toHex(tensor.root) })));
  const both = [...wanted.keys()].filter((path) => given.has(path));
  const differ = (what) => both.filter((path) => what(wanted.get(path)) !== what(given.get(path)));
  const groups = [
    ['missing from the file', [...wanted.keys()].filter((path) => !given.has(path))],
    ['in the file and not in the claim', [...given.keys()].filter((path) => !wanted.has(path))],
    ['of another type', differ(({ dtype }) => dtype)],
    ['of another shape', differ(({ shape }) => shape.join())],
  ];
  const told = new Set(groups.flatMap(([, paths]) => paths));
  groups.push(['of other values', differ(({ root }) => root).filter((path) => !told.has(path))]);
  return groups.filter(([, paths]) => paths.length > 0).map(([words, paths]) => {
    const which = `${counted(paths.length, 'tensor')} of ${counted(wanted.size, 'claimed one')}`;
    return `${which} ${paths.length === 1 ? 'is' : 'are'} ${words}: ${shortNames(paths)}.`;
  });
}

function shortNames(paths) {
  const first = paths.slice(0, 4).map(plain).join(', ');
  return paths.length > 4 ? `${first} and ${counted(paths.length - 4, 'other')}` : first;
}
