"""Registrations: what other programs have left becomes transforms between named spaces, and is compared with their own results.

Inside: `request` what can be asked for, `_found` what a registration is made of, `_itk`, `_brainglobe` and `_others` the programs
whose files are understood, `_images` and `_proof` whether they were understood rightly, `run` the change of the file.
"""

from lsfm_core.register._proof import Proof
from lsfm_core.register.request import TOOLS, ImportRegistrationRequest, Tool
from lsfm_core.register.run import ImportReport, RegistrationPlan, import_registration, plan_registration

__all__ = [
    "TOOLS",
    "ImportRegistrationRequest",
    "ImportReport",
    "Proof",
    "RegistrationPlan",
    "Tool",
    "import_registration",
    "plan_registration",
]
