"""MLServer with adaptive batching, and the scikit-learn pipeline behind the Open Inference Protocol."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, PandasCodec
from mlserver.types import InferenceRequest, InferenceResponse
from plain import PIPELINE


class Flights(MLModel):
    """Requests of columns; MLServer makes batches of them."""

    async def load(self) -> bool:
        """Nothing: the model is loaded with `plain`."""
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a batch."""
        said = PIPELINE.predict_proba(PandasCodec.decode_request(payload))
        output = NumpyCodec.encode_output("answers", said)
        return InferenceResponse(model_name=self.name, outputs=[output])
