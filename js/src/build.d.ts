/** Is this a build that tells `pintrk.said` what it decides? Set by build.mjs. */
declare const DEBUG: boolean;
