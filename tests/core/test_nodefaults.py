"""Whose failure a node's error is, by its words; every text that mistral.rs was seen to say is here."""

import json

import pytest

from cortex.core.nodefaults import Blame, classify, classify_event, failed_load, spoken

CALLER = """
Prompt sequence length is greater than 131072, perhaps consider using `truncate_sequence`?
Role for an image message must be `user`, but it is system
max_tokens must be at least 1.
max_output_tokens must be at least 1.
`max_tokens` must be greater than 0.
No content was provided, expected tool calls to be provided.
invalid reasoning effort `extreme`; expected one of: off, none, low, medium, high, xhigh, max
invalid reasoning effort `CUDA_ERROR_OUT_OF_MEMORY`; expected one of: off, none, low
Tool choice was required but no tools were called.
Received a request incompatible for this model's category.
The image format could not be determined
Remote media URLs must not target private or local IP addresses.
Remote media URLs must use http or https.
Remote media host `out of memory.example` did not resolve to any addresses.
Image sub-content `image_url` object must have a `url` key.
Image sub-content `image_url` key must be an object.
Text sub-content must have `text` key.
Expected `text` key in input message.
Expected array content sub-content to be one of `text`, `image_url`, `audio_url`, `video_url`, or `file`.
Chat Completions file content does not support `file_url`; use Responses `input_file`.
Input file `file-1` was not found.
Input file requires one of `file_id`, `file_data`, or `file_url`.
input_file.file_data must be base64 or a data URL
Invalid image source: expected http, https, or data URL: relative URL without a base
Unsupported video URL scheme: ftp
image URL exceeded the redirect limit.
image data URL exceeds the 67108864 byte limit.
image response exceeds the 67108864 byte limit.
Server request image sources do not support file URLs.
Invalid UI upload reference.
GIF contains no frames
Received an empty prompt.
Received messages for a model which does not have a chat template. Either use a different model or pass a single string as the prompt
Completion requests require the pipeline to have a tokenizer
Number of choices must be greater than 0.
agent_permission "ask" requires stream=true over HTTP; approve or deny emitted requests with POST /v1/agent/approvals/{approval_id}.
Invalid grammar. out of memory
request selected an adapter, but this pipeline has no dynamic LoRA runtime
Request `grammar` and `response_format` were both provided but are mutually exclusive.
tools[].type="web_search" is only supported by the Responses API; use web_search_options with Chat Completions
tools[].type="shell" is only supported by the Responses API.
tools[].type="code_interpreter" container IDs are not supported.
tool_choice="required" requires at least one tool.
tool_choice references unknown function tool `CUDA_ERROR_OUT_OF_MEMORY`.
tool_choice.allowed_tools requires at least one tool.
tool_choice forcing hosted tool `web_search` is not supported.
Skill `x` was not found.
Skill `x` version `2` missing
Anthropic tool_use content block requires `id`.
Anthropic `thinking.type` conflicts with mistral.rs `enable_thinking`.
Unsupported Anthropic image source type `file`.
Anthropic-managed skills are not bundled with mistral.rs; upload a custom skill and use `type`: `custom`.
invalid operation: tried to use + operator on unsupported types string and sequence (in chat_template:4)
Custom embedding dimensions (3) are not supported.
input must contain at least one entry.
Unsupported Anthropic content block `document`.
max_tool_calls is not supported. mistral.rs does not currently support limiting the number of tool calls.
Only support wav/pcm response format.
Only one of `a` and `b` may be set
Stop token `out of memory` cannot be used
stop may contain at most 16 entries
The image at index 0 exceeds the 64 MiB limit
Failed to parse the grammar: out of memory
Failed to fetch image: CUDA_ERROR_OUT_OF_MEMORY
model `x` has no dynamic LoRA runtime
duplicate field `max_tokens` at line 1 column 40
unknown variant `yaml`, expected one of `text`, `json_object` at line 1 column 40
invalid type: string "x", expected f64
Failed to deserialize the JSON body into the target type: messages[0]: missing field `role` at line 1 column 40
""".strip().splitlines()
NODE = """
No response received from the model.
Unexpected response type
Received unexpected response type from embedding request.
unexpected dtype, expected: F32, got: F16
request sender lock is poisoned
engine state lock is poisoned
EnginePoisoned
failed to reload model: Failed to load model: File "/models/a/model.gguf" not found
DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")
CUDA_ERROR_ILLEGAL_ADDRESS
CUDA out of memory
input tensor is not contiguous Tensor[dims 2, 9; f32]
shape mismatch in matmul, lhs: [1, 2], rhs: [3, 4]
thread 'engine' panicked at mistralrs-core/src/engine/mod.rs:10
the engine has stopped
channel closed
""".strip().splitlines()
STALE = {
    "model `a` is being reloaded": "model_reloading",
    'ModelReloading("a")': "model_reloading",
    "model `a` was not found": "model_not_held",
    'ModelNotFound("a")': "model_not_held",
    "No models are currently loaded.": "model_not_held",
    "Requested model 'a' is not available. Available models: b. Use 'default' to use the "
    "default model.": "model_not_held",
}
UNDECIDED = """
the flux is not calibrated
Tensor was expected to be larger
`CUDA out of memory` is no such thing as I know
greater than less than invalid unsupported not supported
""".strip().splitlines()


def said(words: str, status: int = 500) -> Blame:
    return classify(status, json.dumps({"message": words}).encode()).blame


@pytest.mark.parametrize("words", CALLER)
def test_a_callers_mistake_is_400_in_the_nodes_words(words: str) -> None:
    for fault in (
        classify(500, json.dumps({"message": words, "partial_response": {}}).encode()),
        classify(422, words.encode()),
        classify_event(words),
        classify(500, json.dumps({"type": "error", "error": {"message": words}}).encode()),
    ):
        assert (fault.blame, fault.status, fault.message) == (Blame.CALLER, 400, words)


@pytest.mark.parametrize("words", NODE)
def test_a_failure_of_the_node_is_502(words: str) -> None:
    fault = classify_event(words)
    assert (fault.blame, fault.status) == (Blame.NODE, 502)
    assert fault.reason.startswith("the node answered HTTP 500: ")
    # By a 4xx the node says that the request is at fault, whatever its words.
    assert said(words, 400) is Blame.CALLER


@pytest.mark.parametrize("words", STALE)
@pytest.mark.parametrize("status", [422, 500])
def test_a_model_that_is_not_there_is_stale_belief(words: str, status: int) -> None:
    fault = classify(status, json.dumps({"message": words}).encode())
    assert (fault.blame, fault.status, fault.code) == (Blame.STALE, 503, STALE[words])


@pytest.mark.parametrize("words", UNDECIDED)
def test_words_in_no_list_are_undecided(words: str) -> None:
    fault = classify_event(words)
    assert (fault.blame, fault.status, fault.code) == (Blame.UNDECIDED, 502, "node_error")
    assert (
        fault.of_the_caller().blame,
        fault.of_the_caller().status,
        fault.of_the_caller().message,
    ) == (Blame.CALLER, 400, words)
    assert said(words, 422) is Blame.CALLER
    assert said(words, 503) is Blame.NODE


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504])
def test_an_error_without_words_is_the_nodes(status: int) -> None:
    assert classify(status, b"").blame is Blame.NODE


@pytest.mark.parametrize(
    ("status", "told", "code"),
    [
        (400, 400, "invalid_request"),
        (404, 404, "not_found"),
        (413, 413, "request_too_large"),
        (415, 400, "invalid_request"),
        (422, 400, "invalid_request"),
    ],
)
def test_other_refusals_keep_their_meaning(status: int, told: int, code: str) -> None:
    fault = classify(status, b"request body too large")
    assert (fault.blame, fault.status, fault.code) == (Blame.CALLER, told, code)


def test_two_nodes_say_the_same_numbers_apart() -> None:
    one, other = classify_event("no flux at 17"), classify_event("no flux at 4")
    assert one.alike(other)
    assert not one.alike(classify_event("no flow at 17"))


def test_the_reason_of_a_failed_load() -> None:
    assert failed_load("failed to reload model: no such file\nsecond") == "no such file\nsecond"
    assert failed_load("failed to reload model") == "failed to reload model"
    assert failed_load("model `a` is being reloaded") is None


@pytest.mark.parametrize(
    ("words", "heard"),
    [
        ("File /models/a/x.gguf is gone", "File (path) is gone"),
        ("no such file: ../x/y", "no such file: (path)"),
        (r"no such file: C:\models\x", "no such file: (path)"),
        ("cannot fetch https://me:pw@host/x?y=1 now", "cannot fetch (link) now"),
        ("10.0.0.3:8080 refused", "(address) refused"),
        ("[fd00::1]:80 refused", "(address) refused"),
        ("Only support wav/pcm response format.", "Only support wav/pcm response format."),
        ("model org/m is not there", "model org/m is not there"),
        ("\n  first\nsecond", "first"),
        ("a\x1b[31mb", "a[31mb"),
        ("", ""),
    ],
)
def test_words_are_passed_on_without_what_is_nobodys_business(words: str, heard: str) -> None:
    assert spoken(words) == heard


def test_no_more_is_passed_on_than_a_person_reads() -> None:
    heard = spoken("word " * 200)
    assert len(heard) == 300
    assert heard.endswith("…")
