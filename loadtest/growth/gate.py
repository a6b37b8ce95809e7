MEASURED: dict = {}
