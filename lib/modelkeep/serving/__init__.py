"""The prediction server.

- `settings`: the values of params/serve.yaml; `access`: who may send what
- `logs`: lines about requests and errors
- `listener`: the socket and its connections; `fast_path`: the optional short cut of /predict
- `app`: the routes, as a Starlette application; `bodies`: the body of a request
- `requests`: a body becomes validated rows; `responses`: predictions become a body
- `models`: champion, canary and shadow, loaded and verified
- `batching`: rows of many requests, predicted and logged together
- `labels`, `open_inference`, `openapi`: the other routes
"""
