'use strict';
// What this page checks: the claim against the public proof and the time-stamp tokens beside it.

/**
 * Check what the page carries: bytes of the envelope, the proof and each token.
 * Gives `{findings, claim, heads, records, tokens, claimTokens}`; the parts that could not be read are null or empty.
 */
async function checkClaim({ envelope, proof, tokens }) {
  const report = new Report();
  const parsed = report.attempt('Claim', 'The claim', () => parseEnvelope(envelope));
  const read = report.attempt('Proof', 'The proof', () => readProof(proof));
  const facts = { claim: parsed?.claim ?? null, heads: [], records: [], tokens: [], claimTokens: [] };
  if (parsed !== null) {
    const signature = await checkSignature(report, parsed);
    checkTensors(report, parsed.claim);
    if (read !== null)
      Object.assign(facts, await checkProof(report, parsed.claim, read, { tokens, signature }));
  }
  return { ...facts, findings: report.settled() };
}

/** The proof with its notes and records read. */
function readProof(bytes) {
  const proof = parsePublicProof(bytes);
  const heads = proof.seals.map((seal) => ({ ...parseNote(seal.note), seal: seal.index, refs: seal.tokens }));
  const records = proof.records.map(({ record, path }) => ({
    record: parseRecord(record),
    bytes: record,
    path,
  }));
  return { ...proof, heads, records };
}

/** The key's signature over the claim that holds, otherwise null. */
async function checkSignature(report, { claim, signed, signatures }) {
  const key = fromHex(claim.claimant.key);
  const name = 'Signature';
  try {
    for (const { keyid, sig } of signatures) {
      const isHers = keyid === '' || keyid === dsseKeyId(key);
      if (isHers && (await verifyEd25519(key, sig, signed))) {
        report.trust(BY_CLAIM);
        report.add(
          name,
          'holds',
          'The claim was signed with the key that it names, and not one letter was changed since.',
        );
        return sig;
      }
    }
  } catch (error) {
    if (!(error instanceof NoEd25519)) throw error;
    report.add(
      name,
      'unchecked',
      'This browser cannot check the signature (Ed25519). Open this file in a current browser.',
    );
    return null;
  }
  report.add(
    name,
    'broken',
    'The claim does not carry a good signature of the key that it names: it was changed after it ' +
      'was signed, or somebody else made it.',
  );
  return null;
}

async function checkProof(report, claim, proof, { tokens, signature }) {
  const run = toHex(proof.run);
  if (run !== claim.training.run) {
    report.add(
      'Proof',
      'broken',
      `The proof beside this claim is that of another run (${shortened(run)}); ` +
        `the claim speaks of run ${shortened(claim.training.run)}.`,
    );
    return {};
  }
  await checkHeads(report, proof, fromHex(claim.claimant.key));
  checkConsistency(report, proof);
  checkInclusion(report, proof);
  const newest = proof.heads.at(-1);
  report.addAll(
    'Claim and head',
    compared(headFields(claim.training.head, newest)),
    `The claim names the newest tree head: ${counted(newest.size, 'record')}.`,
    [BY_CLAIM, BY_HEADS],
  );
  checkGenesis(report, claim, proof);
  checkFinal(report, claim, proof);
  const stamped = checkTokens(report, claim, proof, { tokens, signature });
  return { heads: proof.heads, records: proof.records, ...stamped };
}

/** Every head is signed by the key, of this run, and names the one before it. */
async function checkHeads(report, { run, heads }, key) {
  const name = 'Tree heads';
  let unsigned = [];
  try {
    unsigned = await unsignedHeads(heads, key);
  } catch (error) {
    if (!(error instanceof NoEd25519)) throw error;
    const sentence = 'This browser cannot check the signatures of the tree heads (Ed25519).';
    report.add(name, 'unchecked', sentence);
    return;
  }
  const problems = [
    ...unsigned.map((i) => broken(`Tree head ${i} does not carry a good signature of the key.`)),
    ...headOrderProblems(heads, run),
  ];
  if (problems.length === 0) report.trust(BY_HEADS);
  const sentence = `${allOf(heads.length, 'tree head')} signed with the same key, without a gap.`;
  report.addAll(name, problems, sentence);
}

async function unsignedHeads(heads, key) {
  const found = [];
  for (const [i, head] of heads.entries()) {
    if (!(await noteIsSigned(head, key))) found.push(i);
  }
  return found;
}

function headOrderProblems(heads, run) {
  let previous = new Uint8Array(DIGEST_BYTES);
  return heads.flatMap((head, i) => {
    const follows = sameBytes(head.previous, previous);
    previous = sha256(head.text);
    const words = [
      [head.seal === i, `is out of place: it is numbered ${head.seal}`],
      [sameBytes(head.run, run), 'is that of another run'],
      [follows, 'does not follow the one before it'],
    ];
    return words.filter(([good]) => !good).map(([, text]) => broken(`Tree head ${i} ${text}.`));
  });
}

/** Each tree holds the one before it, unchanged. */
function checkConsistency(report, { heads, consistency }) {
  if (heads.length === 1) {
    const sentence = 'There is one tree head alone: nothing shows that the history grew while the training went on.';
    report.add('History', 'unchecked', sentence);
    return;
  }
  const problems = consistency.flatMap((path, i) => {
    const [one, two] = [heads[i], heads[i + 1]];
    const fits = verifyConsistency({
      size1: one.size,
      root1: one.root,
      size2: two.size,
      root2: two.root,
      proof: path,
    });
    if (one.size === two.size && !sameBytes(one.root, two.root)) {
      return [contradicted(`The key signed two different histories of ${counted(one.size, 'record')}.`)];
    }
    return fits
      ? []
      : [
          broken(
            `The records under tree head ${i} are not shown to be among those under tree head ${i + 1}.`,
          ),
        ];
  });
  report.addAll(
    'History',
    problems,
    'Between the tree heads nothing was removed, put in or rewritten; records were only added at the end.',
    [BY_HEADS],
  );
}

/** Each record shown is in the newest head, at the place that it names. */
function checkInclusion(report, { run, heads, records }) {
  const { size, root } = heads.at(-1);
  const problems = records.flatMap(({ record, bytes, path }) => {
    if (!sameBytes(record.run, run)) return [broken(`Record ${record.index} is that of another run.`)];
    const leaf = leafHash(sha256(bytes));
    const fits = verifyInclusion({ leaf, index: record.index, size, proof: path, root });
    return fits
      ? []
      : [broken(`Record ${record.index} (${record.type}) is not the one under the newest tree head.`)];
  });
  if (!eachOnce(records.map(({ record }) => record.index))) problems.push(broken('A record is shown twice.'));
  if (problems.length === 0) report.trust(BY_RECORDS);
  const places = records.map(({ record }) => record.index);
  report.addAll(
    'Records',
    problems,
    `The ${counted(records.length, 'record')} shown (${shortList(places)}) are in the sealed history, at their places.`,
    [BY_HEADS],
  );
}

/** The fields that differ, each as `[words, claimed, recorded]`. */
function compared(fields) {
  return fields
    .filter(([, claimed, recorded]) => claimed !== recorded)
    .map(([words, claimed, recorded]) =>
      contradicted(
        `For ${words} the claim says ${shown(claimed)}; the run’s signed record says ${shown(recorded)}.`,
      ),
    );
}

function headFields(claimed, head) {
  return [
    ['the number of the newest tree head', claimed.seal, head.seal],
    ['the number of records', claimed.size, head.size],
    ['the root of the records', claimed.root, toHex(head.root)],
    ['the digest of the newest tree head', claimed.digest, toHex(sha256(head.text))],
  ];
}

function checkGenesis(report, claim, { records }) {
  const found = records.find(({ record }) => record.type === 'genesis');
  if (found === undefined) {
    report.add('First record', 'broken', 'The proof does not show the first record of the run.');
    return;
  }
  report.addAll(
    'First record',
    compared(genesisFields(claim, found)),
    'What the claim says about key, code, settings, data and machine is what the run’s first record says.',
    [BY_CLAIM, BY_HEADS, BY_RECORDS],
  );
}

function genesisFields({ claimant, training, data, task, environment, parents }, { record: genesis, bytes }) {
  const [parent] = parents;
  return [
    ['the first record', training.genesis, toHex(sha256(bytes))],
    ['the key of the run', claimant.key, toHex(genesis.key)],
    ['the code', task, toHex(genesis.task)],
    ['the kind of task', training.kind, genesis.kind],
    ['the steps between two checkpoints', training.every, genesis.every],
    ['the checkpoints at the start', training.warm, genesis.warm],
    ['the seed', training.seed, genesis.seed],
    ['the seed’s bond to the key', training.bound, genesis.bound],
    ['the origin of the first state', training.origin, genesis.origin],
    ['the file that training starts from', training.external, hexOf(genesis.external)],
    ['the run that this one starts from', parent?.head, hexOf(genesis.parent?.head)],
    ['how the earlier run is taken up', parent?.mode, genesis.parent?.mode],
    ['the claim of the earlier run', parent?.claim, hexOf(genesis.parent?.claim)],
    ['the data', data.root, hexOf(genesis.dataset?.root)],
    ['the number of examples', data.size, genesis.dataset?.size],
    [
      'the machine and its software',
      toHex(sha256(encodePlmp(environment))),
      toHex(sha256(encodePlmp(genesis.environment))),
    ],
  ];
}

function checkFinal(report, claim, { records, heads }) {
  const name = 'Last record';
  const final = records.map(({ record }) => record).find(({ type }) => type === 'final');
  if (final === undefined) {
    report.add(name, 'broken', 'The proof does not show the last record of the run, which names the model.');
    return;
  }
  const fields = [
    ['the model', claim.model.root, toHex(final.model_root)],
    ['the model’s place in the run', claim.model.object, final.object],
    ['the number of steps', claim.training.steps, final.steps],
    ['the number of records', claim.training.head.size, final.index + 1],
  ];
  const last = records.map(({ record }) => record).find(({ index }) => index === final.checkpoint);
  const problems = compared(fields);
  if (last !== undefined && (last.type !== 'checkpoint' || last.step !== final.steps)) {
    problems.push(contradicted('The last record names as its end a record that is not the last checkpoint.'));
  }
  report.addAll(
    name,
    problems,
    `The claimed model is the one that the run’s last record names, after ${counted(final.steps, 'step')}.`,
    [BY_CLAIM, BY_HEADS, BY_RECORDS],
  );
}
