from typing import Literal

Role = Literal["read", "support", "billing", "admin"]
