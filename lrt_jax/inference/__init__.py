"""A trained model in people's hands: which of two images would people prefer, and why.

`reward_model` is the door: pictures (`pictures`) and captions become requests (`requests`), which
are gathered into batches (`batching`), read by the models in both orders (`reader`) and summed up
(`results`); rankings are tournaments of such comparisons (`tournament`).
`preference_reward` is a reward of it for image generators. Files of rows (`rows`) are scored
resumably (`scoring`) into files of `scored_rows`.
"""
