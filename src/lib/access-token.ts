/** The `authorization_details` type of a task (RFC 9396 §2: a URI that we own). */
export const TASK_DETAILS = "https://mayfly.dev/rar/task/v1";

/** The JOSE header `typ` of the access tokens that we mint (RFC 9068 §2.1). */
export const ACCESS_TOKEN_TYP = "at+jwt";
