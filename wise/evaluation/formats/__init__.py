"""The formats by name, and what holds for all that are published.

- Texts are kept as they are, with the spaces at their ends. Only a subject is trimmed: a trailing
  space would move the last token of its span.
- A subject that is not literally in its prompt takes the prompt's spelling where only the case
  differs, and is otherwise left empty (no span rather than a wrong one). Counted and logged.
- Published files do not grade paraphrases: `levels` stays empty.
- An answer is a text, a number or null, or an array of them, or of arrays. Of several right ones
  the first that is not blank is the target or the answer, and the others are its aliases: each is
  right, be it another name, as in MQuAKE, or another object. RippleEdits and KnowEdit want all
  objects, each by one of its names, in one continuation; here one answer is asked for. Of
  `ground_truth` the first is taken.
- A record whose prompt or target is blank is left out. A blank paraphrase or probe is left out by
  itself, and so is a portability probe without an answer; other probes need none. So is what a
  record asks beyond paraphrases and probes. All of it is counted and logged. Null is none.
- A key that only another schema reads is an error: the file has another format, or would be read in
  part. A key that no schema reads is metadata: counted and logged, unless the schema `ignores` it.

Sources: zjunlp/EasyEdit `easyeditor/dataset`, kmeng01/rome `dsets`, and the files themselves.
"""

from __future__ import annotations

from functools import partial

from wise.evaluation.formats.cknowedit import CKNOWEDIT
from wise.evaluation.formats.counterfact import FLAT, ROME
from wise.evaluation.formats.hallucination import HALLUCINATION, TEMPORAL
from wise.evaluation.formats.knowedit import KNOWEDIT
from wise.evaluation.formats.known import KNOWN, read_known
from wise.evaluation.formats.long_form import EDITEVERYTHING, UNKE
from wise.evaluation.formats.mquake import MQUAKE
from wise.evaluation.formats.own import OWN, read_own
from wise.evaluation.formats.published_files import AllKeys, Format, read_published
from wise.evaluation.formats.qaedit import QAEDIT
from wise.evaluation.formats.ripple_edits import RIPPLE_EDITS
from wise.evaluation.formats.schema import Schema
from wise.evaluation.formats.uniedit import UNIEDIT
from wise.evaluation.formats.wikibigedit import WIKIBIGEDIT
from wise.evaluation.formats.wikiupdate import WIKIUPDATE
from wise.evaluation.formats.zsre import MEND

__all__ = ["FORMATS"]

# A schema that stands twice is recognised as the format that comes first.
_PUBLISHED: dict[str, tuple[Schema, ...]] = {
    "knowedit": (KNOWEDIT,),
    "zsre": (MEND, KNOWEDIT),
    "counterfact": (ROME, FLAT),
    "hallucination": (HALLUCINATION,),
    "temporal": (TEMPORAL,),
    "qaedit": (QAEDIT,),
    "wikibigedit": (WIKIBIGEDIT,),
    "mquake": (MQUAKE,),
    "rippleedits": (RIPPLE_EDITS,),
    "cknowedit": (CKNOWEDIT,),
    "wikiupdate": (WIKIUPDATE,),
    "unke": (UNKE,),
    "editeverything": (EDITEVERYTHING,),
    "uniedit": (UNIEDIT,),
}
_ALL_KEYS = AllKeys({"jsonl": OWN, "known-facts": (KNOWN,), **_PUBLISHED})

FORMATS: dict[str, Format] = {
    "jsonl": Format(read_own, OWN),
    "known-facts": Format(partial(read_known, _ALL_KEYS), (KNOWN,), makes_probes=True),
    **{
        name: Format(partial(read_published, name, schemas, _ALL_KEYS), schemas)
        for name, schemas in _PUBLISHED.items()
    },
}
