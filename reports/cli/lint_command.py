"""`python -m reports lint`: what is wrong with a file of edits and probes."""

from __future__ import annotations

import click

from reports.cli.command_options import option, skip_option
from reports.cli.fact_files import facts_to_lint, why_not_asked, would_stop

__all__ = ["lint"]


@click.command()
@click.argument("dataset", metavar="[FORMAT:]FILE")
@option("--edits", type=click.IntRange(1), help="number of edits  [default: all]")
@option("--seed", type=click.IntRange(0),
         help="seed of the stream, as of pytest  [default: the file's own order]")  # fmt: skip
@option("--model", help="read the texts with the tokenizer of this model too")
@skip_option
def lint(
    dataset: str, edits: int | None, seed: int | None, model: str | None, skip_bad_records: bool
) -> None:
    """Say what is wrong with a file of edits and probes.

    Each fault with its number and an example; then the most that any editor can reach. Where a run
    would stop, the command goes on, and ends with an error: bad records, and what the model cannot
    be asked, are told and left out, and of fewer edits than asked all are judged.
    """
    from wise.evaluation.asked import final_questions
    from wise.evaluation.datasets import drawn, makes_probes
    from wise.evaluation.lint import lint as findings_of
    from wise.evaluation.lint_text import lint_text
    from wise.measures.ceilings import AS_WRITTEN, ceilings
    from wise.measures.text import by_number

    reading, spelling, protocols = AS_WRITTEN, None, ["free"]
    try:
        whole, notes, lines, stops = facts_to_lint(dataset, skip_bad_records)
        if edits is not None and edits > len(whole.edits):
            held = by_number(len(whole.edits), "edit|edits")
            stops.append(f"--edits={edits}: {whole.name} has {held}, and a run would stop")
            edits = None
        if model is not None:
            from fixtures.models import load_context_length, load_tokenizer
            from wise.evaluation.askable import askable, not_askable, spelling_of
            from wise.lm.tokens import reading_of

            tokenizer, most = load_tokenizer(model), load_context_length(model)
            why = "" if skip_bad_records else why_not_asked(
                dataset, drawn(whole, n_edits=edits, seed=seed), tokenizer, most
            )  # fmt: skip
            if why or skip_bad_records:
                whole, left_out = askable(whole, tokenizer, most)
                notes += (f"{not_askable(left_out, model, most)}; left out",) * bool(left_out)
                edits = None if edits is None else min(edits, len(whole.edits))
            stops += [would_stop(why)] * bool(why)
            reading, spelling = reading_of(tokenizer), spelling_of(tokenizer)
            protocols = ["free", "forced"]
        if not whole.edits:
            stops.append(f"{whole.name} has no edits, and a run would stop")
        stream = drawn(whole, n_edits=edits, seed=seed)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    asked = {each: final_questions(stream, protocol=each) for each in protocols}
    reached = {each: ceilings(asked[each], protocol=each, reading=reading) for each in protocols}
    findings = findings_of(stream, spelling=spelling, made_probes=makes_probes(stream), lines=lines)
    click.echo(lint_text(stream, findings, reached, notes=notes))
    if model is None and stream.edits:
        click.echo("\nWhether a model can read and write each text, and its length, is judged with "
                   "--model.")  # fmt: skip
    if stops:
        raise click.ClickException(stops[0])
