'use strict';
// The page around the checks. Whatever comes from the claim enters as text, never as markup.

const OUTCOME_WORDS = {
  holds: 'holds',
  contradicted: 'contradicted',
  broken: 'does not hold',
  unchecked: 'not checked',
  fits: 'fits',
};

const VERDICTS = {
  contradicted: {
    title: 'Contradicted: the run’s own signed records say otherwise',
    text: 'The same key signed both. Do not rely on this claim.',
  },
  broken: {
    title: 'Not confirmed: these files do not fit together',
    text:
      'A change, damage on the way or a mix-up of files explains this as well as a false claim. ' +
      'Do not rely on the claim; ask for its files again.',
  },
  unchecked: {
    title: 'Not checked: nothing can be said about this claim here',
    text: 'What could not be checked is named below. Nothing was found that speaks against the claim.',
  },
  holds: {
    title: 'What this page can check holds',
    text:
      'The claim is signed, its history is unbroken, and the two fit together. ' +
      'What that does not show stands below.',
  },
};

const byId = (id) => document.getElementById(id);

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Text that somebody else wrote: its direction of writing stays its own. */
const foreign = (text) => element('bdi', {}, plain(text));

const digest = (hex) => element('code', { className: 'digest' }, hex);

function show(id, ...children) {
  const place = byId(id);
  place.replaceChildren(...children);
  place.closest('section').hidden = false;
}

/** The bytes in the page's inert elements of one kind. */
function carried(kind) {
  return [...document.querySelectorAll(`script[data-${kind}]`)].map(({ textContent }) =>
    fromBase64(textContent),
  );
}

const WORST_FIRST = ['contradicted', 'broken', 'unchecked', 'holds'];

/** What a claim may lack and still hold; it is said beside the rest. */
const OPTIONAL = ['Tensors', 'Time-stamps'];

function verdictOf(findings) {
  const counting = findings.filter(
    ({ name, outcome }) => outcome !== 'unchecked' || !OPTIONAL.includes(name),
  );
  return WORST_FIRST.find((outcome) => counting.some((finding) => finding.outcome === outcome));
}

function showVerdict(findings, verdict) {
  const { title, text } = VERDICTS[verdict];
  const against = findings.filter(({ outcome }) => outcome === 'contradicted' || outcome === 'broken');
  byId('verdict').dataset.outcome = verdict;
  byId('verdict-title').textContent = title;
  const list = element(
    'ul',
    { className: 'against' },
    ...against.map(({ sentence }) => element('li', {}, sentence)),
  );
  byId('verdict-body').replaceChildren(...(against.length > 0 ? [list] : []), element('p', {}, text));
}

function findingItem({ name, outcome, sentence }) {
  const item = element(
    'li',
    {},
    element('span', { className: 'outcome' }, OUTCOME_WORDS[outcome]),
    element('span', { className: 'sentence' }, element('strong', {}, name + '. '), sentence),
  );
  item.dataset.outcome = outcome;
  return item;
}

/** Those against the claim first. */
function showFindings(id, findings) {
  const sorted = WORST_FIRST.flatMap((outcome) => findings.filter((finding) => finding.outcome === outcome));
  show(id, ...sorted.map(findingItem));
}

function showClaim({ claim, heads, tokens, claimTokens }) {
  const { claimant, model, training, data } = claim;
  document.title = `Claim: ${plain(model.name)}`;
  byId('model').replaceChildren(foreign(model.name));
  byId('lede').replaceChildren(...ledeOf(claim));
  const rows = [
    ['Claimant', claimantOf(claimant)],
    ['Key', [digest(claimant.key)]],
    ['Model', [`${counted(model.tensors.length, 'tensor')}, model root `, digest(model.root)]],
    ['Start on record', stampedBy(tokens)],
    ['Model on record', stampedBy(tokens.filter(({ seal }) => seal === heads.length - 1))],
    ['Claim on record', stampedBy(claimTokens)],
    [
      'Training',
      [
        `${counted(training.steps, 'step')}, ${ORIGINS[training.origin]}; a checkpoint every ` +
          `${counted(training.every, 'step')}. ${KINDS[training.kind]}`,
      ],
    ],
    ['Data', [dataOf(data)]],
    ['Machine', [foreign(`${claim.environment.device}, torch ${claim.environment.torch}`)]],
  ];
  show('facts', ...rows.flatMap(([term, value]) => [element('dt', {}, term), element('dd', {}, ...value)]));
  show('not-claimed', ...claim.not_claimed.map((line) => element('li', {}, foreign(line))));
}

const ORIGINS = {
  scratch: 'from a first state made anew',
  parent: 'from the last state of an earlier run',
  external: 'from the weights in a file that was there before',
};

const KINDS = {
  recipe: 'Said to be steps of polledger’s own, under the claimant’s settings.',
  custom: 'The steps are code of the claimant’s own, which has to be read.',
};

function ledeOf({ claimant, training }) {
  const who =
    claimant.name === ''
      ? ['The holder of the key below']
      : ['Somebody by the name of ', foreign(claimant.name)];
  return [
    ...who,
    ` claims to have trained this model in ${counted(training.steps, 'step')}` +
      ' and to have sealed them as they happened.',
  ];
}

function claimantOf({ name, contact }) {
  if (name === '' && contact === '') return ['unnamed'];
  const said = [name, contact]
    .filter((text) => text !== '')
    .flatMap((text, i) => (i > 0 ? [', ', foreign(text)] : [foreign(text)]));
  return [...said, element('span', { className: 'note' }, ' as the holder of the key says')];
}

function dataOf({ disclosure, size }) {
  return disclosure === 'withheld'
    ? `${counted(size, 'example')}, committed to in the run’s first record; not shown`
    : 'each batch committed to, not shown; where the batches come from is not on record';
}

/** The earliest time that these tokens state. */
function stampedBy(tokens) {
  return tokens.length === 0 ? ['no time-stamp shown'] : momentOf(earliest(tokens));
}

/** Times of others come before those that the claimant states. */
function earliest(tokens) {
  const others = tokens.filter(({ selfAsserted }) => !selfAsserted);
  const counting = others.length > 0 ? others : tokens;
  return counting.reduce((best, token) => (best === null || token.micros < best.micros ? token : best), null);
}

function momentOf({ micros, authority, selfAsserted, accuracy }) {
  const seconds = new Date(Number(micros / 1000n));
  const words = seconds.toLocaleString('en-GB', { dateStyle: 'long', timeStyle: 'medium', timeZone: 'UTC' });
  const within = accuracy === null ? '' : `, to ${accuracy / 1000} s`;
  const by = selfAsserted
    ? ['says the claimant’s own clock, which proves nothing']
    : ['says a time-stamp of ', foreign(authority), within, ', whose signature was not checked here'];
  return [
    'by ',
    element('time', { dateTime: momentText(micros) }, `${words} UTC`),
    element('span', { className: 'note' }, ', ', ...by),
  ];
}

function table(caption, columns, rows) {
  const cells = (tag, values) =>
    values.map((value) => element(tag, tag === 'th' ? { scope: 'col' } : {}, value));
  const frame = element(
    'div',
    { className: 'wide', tabIndex: 0, role: 'region', ariaLabel: caption },
    element(
      'table',
      {},
      element('caption', {}, caption),
      element('thead', {}, element('tr', {}, ...cells('th', columns))),
      element('tbody', {}, ...rows.map((row) => element('tr', {}, ...cells('td', row)))),
    ),
  );
  return element('details', {}, element('summary', {}, caption), frame);
}

function showDetails({ claim, heads, tokens, records }) {
  const { training, model, task } = claim;
  show(
    'details',
    table(
      'Identity',
      ['What', 'Value'],
      [
        ['Run', digest(training.run)],
        ['Key of the claimant (Ed25519)', digest(claim.claimant.key)],
        ['First record', digest(training.genesis)],
        ['Newest tree head', digest(training.head.digest)],
        ['Code', digest(task)],
        ['Data', claim.data.root ? digest(claim.data.root) : 'not committed as a whole'],
        ['Replaces the claim', claim.supersedes ? digest(claim.supersedes) : 'none'],
      ],
    ),
    table(
      counted(heads.length, 'tree head'),
      ['Head', 'Records', 'Digest of its text'],
      heads.map((head, i) => [String(i), String(head.size), digest(toHex(sha256(head.text)))]),
    ),
    table(
      counted(records.length, 'record'),
      ['Record', 'Kind', 'Digest'],
      records.map(({ record, bytes }) => [String(record.index), record.type, digest(toHex(sha256(bytes)))]),
    ),
    table(
      counted(tokens.length, 'time-stamp token'),
      ['Head', 'Time', 'Authority', 'Digest'],
      tokens.map((token) => [
        String(token.seal),
        momentText(token.micros),
        foreign(token.authority),
        digest(token.digest),
      ]),
    ),
    table(
      counted(model.files.length, 'file'),
      ['Name', 'Bytes', 'SHA-256'],
      model.files.map((file) => [foreign(file.name), String(file.size), digest(file.sha256)]),
    ),
    table(
      counted(model.tensors.length, 'tensor'),
      ['Name', 'Type', 'Shape', 'Root'],
      model.tensors.map((tensor) => [
        foreign(tensor.name),
        foreign(tensor.dtype),
        tensor.shape.join(' × ') || 'one number',
        digest(tensor.root),
      ]),
    ),
  );
}

/** Lets the reader give a model file; the newest one counts. */
function offerFile(claim, verdict) {
  let newest = null;
  const look = async (file) => {
    newest = file;
    byId('progress').hidden = false;
    byId('file-result').replaceChildren(element('p', {}, 'Reading ', foreign(file.name), ' …'));
    const findings = await findingsOf(claim, file, (part) => {
      if (newest === file) byId('progress').value = part;
    });
    if (newest !== file) return;
    byId('progress').hidden = true;
    const warning = element('p', {}, 'The claim itself is not established: see the top of this page.');
    byId('file-result').replaceChildren(
      element('p', {}, foreign(file.name)),
      ...(verdict === 'holds' ? [] : [warning]),
      element(
        'ul',
        { className: 'findings' },
        ...findings.map((finding) => findingItem(lowered(finding, verdict))),
      ),
    );
  };
  byId('file-section').hidden = false;
  byId('file').addEventListener('change', ({ target }) => target.files.length > 0 && look(target.files[0]));
  document.addEventListener('dragover', (event) => event.preventDefault());
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length > 0) look(event.dataTransfer.files[0]);
  });
}

async function findingsOf(claim, file, progress) {
  try {
    return checkModel(claim, await readModelFile(file, progress));
  } catch (error) {
    return [
      { name: 'File', outcome: 'unchecked', sentence: `The file could not be read: ${error.message}.` },
    ];
  }
}

/** Under a claim that is not established, that a file fits it is worth little. */
function lowered(finding, verdict) {
  return finding.outcome === 'holds' && verdict !== 'holds' ? { ...finding, outcome: 'fits' } : finding;
}

async function checkAndShow() {
  const [envelope] = carried('envelope');
  const [proof] = carried('proof');
  const found = await checkClaim({ envelope, proof, tokens: carried('token') });
  const verdict = verdictOf(found.findings);
  if (found.claim !== null) {
    showClaim(found);
    showDetails(found);
    offerFile(found.claim, verdict);
  }
  showResult(found.findings, verdict);
}

function showResult(findings, verdict) {
  showFindings('findings', findings);
  showVerdict(findings, verdict);
  document.documentElement.dataset.milliseconds = performance.now().toFixed(1);
  document.documentElement.dataset.verdict = verdict;
}

async function main() {
  try {
    await checkAndShow();
  } catch (error) {
    const sentence = `The checks stopped half-way: ${error.message}. Use another browser, or polledger itself.`;
    showResult([{ name: 'Page', outcome: 'unchecked', sentence }], 'unchecked');
  }
}

main();
