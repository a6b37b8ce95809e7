"""The endpoints that are served if the configuration names none."""

from gateway.settings.catalogue import RouteSection


def default_routes() -> dict[str, RouteSection]:
    """Return the routes used if the configuration names none."""
    paid = {
        "chat_completions": ("/v1/chat/completions", "openai_chat"),
        "completions": ("/v1/completions", "openai_completions"),
        "embeddings": ("/v1/embeddings", "openai_embeddings"),
        "responses": ("/v1/responses", "openai_responses"),
        "messages": ("/v1/messages", "anthropic_messages"),
    }
    free = {"count_tokens": ("/v1/messages/count_tokens", "anthropic_count_tokens")}
    for at, version in ("", "v1"), ("_beta", "v1beta"):
        model = f"/{version}/models/{{model}}"
        paid[f"gemini_generate{at}"] = (f"{model}:generateContent", "gemini_generate")
        paid[f"gemini_stream{at}"] = (f"{model}:streamGenerateContent", "gemini_generate")
        free[f"gemini_count_tokens{at}"] = (f"{model}:countTokens", "gemini_count_tokens")
    routes = {name: RouteSection(path=path, dialect=says) for name, (path, says) in paid.items()}
    for name, (path, says) in free.items():
        routes[name] = RouteSection(path=path, dialect=says, free=True)
    return routes
