"""Registrations: what other programs have left becomes transforms between named spaces, and is compared with their own results.

Inside: `request` what can be asked for, `_found` what a registration is made of, `_itk`, `_brainglobe` and `_others` the programs
whose files are understood, `plan` what would be stored, `run` the change of the file, `_images` and `_proof` whether they
were understood rightly, `inputs` what programs want of a channel and ANTs called with it, `atlas` an atlas as BrainGlobe keeps it,
`compare` what a window shows of an import.
"""

from lsfm_core.register._proof import Proof
from lsfm_core.register.atlas import AddAtlasRequest, AtlasReport, add_atlas, describe_atlas
from lsfm_core.register.compare import Comparison, compare_registration, planned_spaces
from lsfm_core.register.inputs import (
    InputsResult,
    RegisterRequest,
    RegistrationInputsRequest,
    describe_inputs,
    describe_register,
    register_channel,
    write_inputs,
)
from lsfm_core.register.plan import RegistrationPlan, plan_registration
from lsfm_core.register.request import TOOLS, ImportRegistrationRequest, Tool
from lsfm_core.register.run import ImportReport, import_registration

__all__ = [
    "TOOLS",
    "AddAtlasRequest",
    "AtlasReport",
    "Comparison",
    "ImportRegistrationRequest",
    "ImportReport",
    "InputsResult",
    "Proof",
    "RegisterRequest",
    "RegistrationInputsRequest",
    "RegistrationPlan",
    "Tool",
    "add_atlas",
    "compare_registration",
    "describe_atlas",
    "describe_inputs",
    "describe_register",
    "import_registration",
    "plan_registration",
    "planned_spaces",
    "register_channel",
    "write_inputs",
]
