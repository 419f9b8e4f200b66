"""What each parameter of a model is, which matrices it holds, and how we know."""

from stiefel.roles.layout import layout
from stiefel.roles.role import MATRIX_ROLES, UNDECAYED_ROLES, Role, as_role
from stiefel.roles.rules import Finding, find_roles
from stiefel.roles.survey import Known, Skeleton, survey

__all__ = [
    "MATRIX_ROLES",
    "UNDECAYED_ROLES",
    "Finding",
    "Known",
    "Role",
    "Skeleton",
    "as_role",
    "find_roles",
    "layout",
    "survey",
]
