"""The reference of a room: links to a name lead to its room, and docstrings that Python wrote are not shown."""

import re

# "Alias for field number 0"; "VICReg(backbone: flax...)", the signature as docstring.
GENERATED = re.compile(r"Alias for field number \d+|\w+\([\s\S]*\)\Z")
# What `jax.typing.ArrayLike` stands for.
ARRAY_LIKE = re.compile(r"[~\w.]*\bArray \| ~?numpy\.ndarray(?: \| [~.\w]+)* \| complex")
FILE_OF_A_ROOM = re.compile(r"(vicreg_jax\.\w+)\.\w+\.(\w+)")


def skip_generated(app, what, name, member, skip, options):
    """Whether to skip a member: one whose docstring Python wrote is skipped."""
    return True if GENERATED.match(getattr(member, "__doc__", None) or "") else None


def shorten_signature(app, what, name, obj, options, signature, returns):
    """Writes `ArrayLike` for the union that it is, and drops what Flax adds to every module."""
    signature = ARRAY_LIKE.sub("~jax.typing.ArrayLike", signature or "")
    signature = re.sub(r", parent: .*_Sentinel object>, name: .*= None\)", ")", signature)
    signature = re.sub(r"<class '([\w.]+)'>", r"\1", signature)
    return signature or None, returns


def resolve_to_room(app, env, node, contnode):
    """A link to `vicreg_jax.losses.vicreg.VICRegLoss` leads to `vicreg_jax.losses.VICRegLoss`."""
    target = node.get("reftarget", "")
    if found := FILE_OF_A_ROOM.fullmatch(target):
        target = ".".join(found.groups())
    elif node.get("reftype") == "exc":
        target = f"vicreg_jax.runtime.errors.{target}"
    else:
        return None
    python = env.get_domain("py")
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)


def setup(app):
    """Registers the event handlers."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-skip-member", skip_generated)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("missing-reference", resolve_to_room)
    return {"parallel_read_safe": True}
