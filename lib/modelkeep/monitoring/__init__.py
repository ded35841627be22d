"""Is the model in service still right? Offline by windows, live by metrics.

- `sources`: the rows to monitor: a log's, or a replay's
- `windows`, `decisions`: quality and drift by window, and the state they lead to
- `slices`: the same quality for each slice of the gate, with one rate of false alarms
- `attribution`: what predictions rest on, by window
- `diagnosis`, `causes`: why quality fell between two periods, in which rows, and the remedy
- `contract`: the metrics, alerts and dashboards of monitoring/metrics.yaml
- `collectors`, `exporter`, `model_metrics`, `live_bins`: the server's metrics page
- `rules`, `dashboards`, `generate`: Prometheus rules and Grafana dashboards, made from the contract
"""
