"""How large the part of the logits is that exists at a time."""

LOGITS_AT_ONCE = 1 << 24
"""Elements of the logits that exist at a time on a CPU: 64 MiB in float32."""

LOGITS_SHARE = 64
"""On a GPU they take this part of its memory. Of all of it: parts, and with them roundings, must not depend on what
happens to be free."""
