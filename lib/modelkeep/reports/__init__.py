"""What pages say and show: one module a stage, figures, comparisons.

- `prepare`, `train`, `evaluate`, `collect`, `monitor`, `backtest`, `rollout`: one module a page
- `figures`: one function a figure; the palette is here only
- `live_panels`: Prometheus panels, drawn
- `experiments`, `paired`, `compare`: DVC experiments: read, tested in pairs, side by side
- `render`, `index`: an executed notebook as a page, and the front page
"""
