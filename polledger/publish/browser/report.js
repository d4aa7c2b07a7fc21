'use strict';
// What comes out of the checks.
//
// A finding holds; or it is contradicted, by bytes that the run's own key signed; or it is broken, where bytes do not
// fit what commits to them, which damage explains as well; or it is unchecked. A finding that rests on a signature
// which was not shown to be good holds nothing and contradicts nothing.

const BY_CLAIM = 'the signature of the claim';
const BY_HEADS = 'the signatures of the tree heads';
const BY_RECORDS = 'the records’ places in the tree';

class Report {
  findings = [];
  #sound = new Set();

  /** Note that what is named is good: findings may rest on it. */
  trust(name) {
    this.#sound.add(name);
  }

  add(name, outcome, sentence, restsOn = []) {
    this.findings.push({ name, outcome, sentence, restsOn });
  }

  /** One finding over many questions: `holds` if there is no problem, otherwise each problem by itself. */
  addAll(name, problems, sentence, restsOn = []) {
    for (const { outcome, text } of problems) this.add(name, outcome, text, restsOn);
    if (problems.length === 0) this.add(name, 'holds', sentence, restsOn);
  }

  /** What `read` gives; null, and a finding, where it refuses the bytes. */
  attempt(name, what, read) {
    try {
      return read();
    } catch (error) {
      if (!(error instanceof Malformed)) throw error;
      this.add(name, 'broken', `${what} cannot be read: ${error.message}.`);
      return null;
    }
  }

  /** The findings once nothing more will be trusted. */
  settled() {
    return this.findings.map((finding) => {
      const missing = finding.restsOn.filter((name) => !this.#sound.has(name));
      if (missing.length === 0) return finding;
      if (finding.outcome === 'contradicted') return { ...finding, outcome: 'broken' };
      if (finding.outcome !== 'holds') return finding;
      const sentence = `Not established, because ${listed(missing)} did not hold or could not be checked.`;
      return { ...finding, outcome: 'unchecked', sentence };
    });
  }
}

const broken = (text) => ({ outcome: 'broken', text });
const contradicted = (text) => ({ outcome: 'contradicted', text });
