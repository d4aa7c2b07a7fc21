"""Every case of the vectors: one response for each defect, and some that are right."""

from tests.timestamp.defects import chain, encoding, field, statement, structure, valid, values
from tests.timestamp.defects.base import Case


def all_cases() -> list[Case]:
    """The cases in the order of cases.json; names are unique."""
    makers = (
        valid.valid_cases,
        structure.response_cases,
        structure.token_cases,
        structure.signer_cases,
        structure.attribute_cases,
        statement.algorithm_cases,
        statement.statement_cases,
        chain.purpose_cases,
        chain.chain_cases,
        chain.certificate_cases,
        encoding.framing_cases,
        encoding.length_cases,
        encoding.number_cases,
        encoding.tag_cases,
        values.number_cases,
        values.time_cases,
        values.statement_cases,
        values.attribute_cases,
        values.algorithm_cases,
        values.certificate_cases,
        field.padding_cases,
        field.curve_cases,
        field.attack_cases,
        field.rollover_cases,
        field.key_identifier_cases,
        field.signers_cases,
    )
    cases = [case for maker in makers for case in maker()]
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise ValueError(
            f"two cases have the same name: {sorted(n for n in set(names) if names.count(n) > 1)}"
        )
    return cases
