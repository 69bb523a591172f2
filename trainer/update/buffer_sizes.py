"""Sizes of what exists beside weights and activations, for who plans memory without torch too."""

LOGITS_AT_ONCE = 1 << 24
"""Elements of the logits that exist at a time on a CPU: 64 MiB in float32."""

LOGITS_SHARE = 64
"""On a GPU they take this part of its memory. Of all of it: parts, and with them roundings, must not depend on what
happens to be free."""

IPC_BUFFER_BYTES = 1 << 29
"""Memory of the sending GPU through which weights go to an engine that shares it, unless one weight is larger."""
