"""The prediction server.

- `settings`: params/serve.yaml
- `app`: the routes; `http`: requests and replies; `fast_path`: the short way of /predict
- `requests`: a body becomes checked columns; `responses`: predictions become a body
- `batching`: rows of many requests, predicted and logged together
- `models`: champion, canary and shadow, loaded and verified
- `labels`, `open_inference`, `openapi`: the other routes
"""
