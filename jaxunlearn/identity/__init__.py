"""Identities: what papers put into a representation, and whether it comes out.

The core objectives of five papers on faces and people, a module each, as pure
functions on embeddings and small images; no pretrained network comes with them.
Then ways to take an identity out of what they make, and the audit by which it is
gone or merely concealed.
"""

from jaxunlearn.identity import cion as cion
from jaxunlearn.identity import disenbooth as disenbooth
from jaxunlearn.identity import dlif as dlif
from jaxunlearn.identity import infinite_id as infinite_id
from jaxunlearn.identity import wsc_swap as wsc_swap
from jaxunlearn.identity.audit import Decision as Decision
from jaxunlearn.identity.audit import IdentityAudit as IdentityAudit
from jaxunlearn.identity.audit import audit_identity as audit_identity
from jaxunlearn.identity.audit import decide as decide
from jaxunlearn.identity.forget import anchor_to_class as anchor_to_class
from jaxunlearn.identity.forget import beside_retain as beside_retain
from jaxunlearn.identity.forget import clipped_reversal as clipped_reversal
from jaxunlearn.identity.forget import retain_mean as retain_mean
from jaxunlearn.identity.forget import uniform_teacher as uniform_teacher
from jaxunlearn.identity.vectors import retrieval as retrieval
